"""``replicator feed accept-deletes``, and what the other commands say of a guarded feed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.cli import naming
from replicator.domain.feed_state import FeedState
from replicator.domain.guard import DeleteLimit
from replicator.outbox.sqlite.lock import exclusively
from tests.support.command import Command
from tests.support.feed_elements import initial
from tests.support.outbox import Outbox, outbox, table

KEYS = ["a", "ü", 7, ["x", 1]]  # in the order of their JSON


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    """An outbox whose table was found empty."""
    documents = [initial({"id": key}) for key in KEYS]
    with outbox(tmp_path, table()._replace(delete_limit=DeleteLimit(3))) as made:
        made.step(made.opened(), made.batch(*documents), made.ready())
        made.step(made.closed())
        made.step(made.opened(), made.ready())
        assert made.feed().state is FeedState.GUARDED
        yield made


def accepted(box: Outbox) -> list[tuple[object, ...]]:
    return box.rows("SELECT action, deletes FROM operations")


def test_a_dry_run_shows_how_many_and_some_and_changes_nothing(box: Outbox, cli: Command) -> None:
    done = cli("feed", "accept-deletes", "db.t", "--dry-run")
    assert done.status == 0
    assert done.out == "db.t: 4 deletes would be published\n"
    assert "4 deletes of db.t, found 2023-11-14T" in done.err
    assert "when the index had 4 documents; the first of them:" in done.err
    assert [line.strip() for line in done.err.splitlines()[1:]] == [
        '"a"',
        '"ü"',
        "7",
        '["x",1]',
    ]

    facts = cli("feed", "accept-deletes", "db.t", "--dry-run", "--json").object
    assert facts.pop("at").startswith("2023-11-14T")
    assert facts == {
        "table": "db.t",
        "deletes": 4,
        "documents": 4,
        "keys": KEYS,
        "dry_run": True,
    }
    assert accepted(box) == []


def test_without_a_terminal_yes_is_needed(box: Outbox, cli: Command) -> None:
    assert cli("feed", "accept-deletes", "db.t").status == 2
    assert accepted(box) == []


def test_the_question_says_how_many_and_no_changes_nothing(
    box: Outbox, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(naming, "ask", asked.append)
    assert cli("feed", "accept-deletes", "db.t").status == 0

    assert asked == ["Publish 4 deletes of db.t?"]
    assert accepted(box) == [("accept-deletes", 4)]


def test_accepted_without_a_service_they_go_at_the_next_start(box: Outbox, cli: Command) -> None:
    done = cli("feed", "accept-deletes", "db.t", "--yes")
    assert done.status == 0
    assert done.out.startswith("no replicator runs on this outbox: when one starts, it compares")
    assert done.out.endswith("publishes up to 4 deletes\n")
    (order,) = cli("outbox", "history", "--json").objects
    assert (order["action"], order["table"], order["deletes"]) == ("accept-deletes", "db.t", 4)
    assert "accept-deletes" in cli("outbox", "history").out
    again = box.restart()
    again.step(again.opened(), again.ready())

    assert [op for op, *_ in again.sink.said()[4:]] == ["delete"] * 4
    assert again.feed().state is FeedState.READY
    again.close()


def test_accepted_under_a_running_service_they_go_now(box: Outbox, cli: Command) -> None:
    with exclusively(box.path):
        done = cli("feed", "accept-deletes", "db.t", "--yes")

    assert (done.status, done.out) == (0, "db.t: 4 deletes are published from now on\n")


def test_where_nothing_is_held_back_nothing_can_be_accepted(box: Outbox, cli: Command) -> None:
    box.step(box.closed())
    box.step(box.opened(), box.batch(*(initial({"id": key}) for key in KEYS)), box.ready())
    for more in ("--yes", "--dry-run"):
        done = cli("feed", "accept-deletes", "db.t", more)
        assert (done.status, done.out) == (1, "")
        assert "error: no deletes of db.t are held back" in done.err
    assert cli("feed", "accept-deletes", "db.typo", "--yes").status == 2


@pytest.mark.usefixtures("box")
def test_a_guarded_feed_is_listed_as_one(cli: Command) -> None:
    (feed,) = cli("feed", "list", "--json").objects

    assert feed["state"] == "guarded"
    assert feed["since"] == feed["guarded"].pop("at")
    assert feed["guarded"] == {"deletes": 4, "documents": 4}
    assert "guarded" in cli("feed", "list").out
