"""What operators do to an outbox: redrive, park, discard, and the record of it."""

import getpass
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.cli import entries as commands
from replicator.domain.model import Failure, Outcomes, TableName
from replicator.errors import OutboxUnavailable
from replicator.operators import entries as changes
from replicator.outbox.sqlite.lock import exclusively
from tests.support.command import Command, Done
from tests.support.feed_elements import add, change, initial, remove
from tests.support.outbox import Outbox, outbox, table

A1, A2, A3, B1 = {"id": "a", "v": 1}, {"id": "a", "v": 2}, {"id": "a", "v": 3}, {"id": 7}
OTHER = TableName("db", "other")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    """Of document "a": 1 and 2, 3 of another; 4 of another table. 1 and 2 are parked."""
    with outbox(tmp_path, table(), table(OTHER)) as made:
        made.step(made.opened(), made.batch(initial(A1)), made.ready())
        made.step(made.batch(change(A1, A2), add(B1)))
        made.step(made.opened(feed_id=2), made.batch(initial(A1), feed_id=2), made.ready(2))
        failures = [Failure(number, "too_large", "it is too large") for number in (1, 2)]
        made.step(outcomes=[Outcomes(parked=failures)])
        yield made


def states(box: Outbox) -> dict[int, str]:
    return {row[0]: row[1] for row in box.rows("SELECT id, state FROM entries ORDER BY id")}


def recorded(cli: Command) -> list[tuple[str, int, int]]:
    done = cli("outbox", "history", "--json")
    assert done.status == 0, done.err
    return [(each["action"], each["first_entry"], each["last_entry"]) for each in done.objects]


def superseded(done: Done) -> dict[int, bool | None]:
    assert done.status == 0, done.err
    return {each["id"]: each["superseded"] for each in done.objects}


def test_a_parked_entry_is_pending_again_and_it_is_recorded(box: Outbox, cli: Command) -> None:
    done = cli("outbox", "redrive", f"{box.store.outbox_id}-2", "3", "--json")

    assert [each["changed"] for each in done.objects] == [True, False]
    assert done.objects[0] == {
        "id": 2,
        "message_id": f"{box.store.outbox_id}-2",
        "table": "db.t",
        "op": "update",
        "key": "a",
        "was": "parked",
        "state": "pending",
        "changed": True,
        "dry_run": False,
        "superseded": False,
    }
    assert states(box) == {1: "parked", 2: "pending", 3: "pending", 4: "pending"}
    assert box.rows("SELECT reason, attempts FROM entries WHERE id = 2") == [(None, 1)]
    assert recorded(cli) == [("redrive", 2, 2)]


def test_redriving_again_changes_and_records_nothing(box: Outbox, cli: Command) -> None:
    cli("outbox", "redrive", "2")

    assert "2 is pending already" in cli("outbox", "redrive", "2").out
    assert states(box)[2] == "pending"
    assert recorded(cli) == [("redrive", 2, 2)]


@pytest.mark.parametrize("action", [["redrive"], ["park"], ["discard", "--yes"]])
def test_one_unknown_entry_and_nothing_is_changed(
    action: list[str], box: Outbox, cli: Command
) -> None:
    before = states(box)

    done = cli("outbox", *action, "1", "3", "98", "99")

    assert done.status == 1
    assert done.err.startswith(
        "error: there is no entry 98, 99 in this outbox; nothing was changed\nhint: "
    )
    assert states(box) == before
    assert recorded(cli) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["redrive"],
        ["redrive", "1", "--all"],
        ["redrive", "1", "--table", "db.t"],
        ["redrive", "first"],
        ["park"],
        ["discard", "2e3", "--yes"],
        ["redrive", "--all", "--table", "db.typo"],
        ["export", "--table", "db.typo"],
        ["export", "--state", "lost"],
        ["history", "--limit", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_said_and_changes_nothing(
    arguments: list[str], box: Outbox, cli: Command
) -> None:
    before = states(box)

    done = cli("outbox", *arguments)

    assert (done.status, done.out) == (2, "")
    assert done.err
    assert states(box) == before


def test_a_message_of_another_outbox_is_refused(box: Outbox, cli: Command) -> None:
    done = cli("outbox", "park", "abcdefgh-3")

    assert done.status == 1
    assert "from another outbox" in done.err
    assert states(box)[3] == "pending"


@pytest.mark.parametrize(
    "action",
    [["redrive", "1", "2"], ["redrive", "--all"], ["park", "3"], ["discard", "1", "3"]],
    ids=" ".join,
)
def test_a_dry_run_says_the_same_and_changes_nothing(
    action: list[str], box: Outbox, cli: Command
) -> None:
    before = states(box)

    dry = cli("outbox", *action, "--dry-run", "--json")
    assert "would be" in cli("outbox", *action, "--dry-run").out
    assert states(box) == before
    assert recorded(cli) == []
    done = cli("outbox", *action, "--json", *(["--yes"] if action[0] == "discard" else []))

    assert [each | {"dry_run": False} for each in dry.objects] == done.objects
    assert all(each["dry_run"] for each in dry.objects)
    assert states(box) != before


def test_all_parked_entries_are_redriven_in_steps(
    box: Outbox, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_STEP_ENTRIES", 1)
    box.step(outcomes=[Outcomes(parked=[Failure(4, "refused", "no")])])

    one = cli("outbox", "redrive", "--all", "--table", "db.other")
    assert one.out == "1 entry is pending again, 0 of them superseded\n"
    assert states(box) == {1: "parked", 2: "parked", 3: "pending", 4: "pending"}
    done = cli("outbox", "redrive", "--all")

    assert done.out == "2 entries are pending again, 1 of them superseded\n"
    assert set(states(box).values()) == {"pending"}
    assert recorded(cli) == [("redrive", 4, 4), ("redrive", 1, 1), ("redrive", 2, 2)]
    assert "0 entries are pending again" in cli("outbox", "redrive", "--all").out


def test_neighbours_that_are_redriven_together_are_one_record(box: Outbox, cli: Command) -> None:
    cli("outbox", "redrive", "--all")

    assert box.rows("SELECT state FROM entries WHERE id < 3") == [("pending",)] * 2
    assert recorded(cli) == [("redrive", 1, 2)]


def test_a_redrive_that_is_broken_off_says_how_far_it_came(
    box: Outbox, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_STEP_ENTRIES", 1)
    real, calls = changes._apply, []

    def fails(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) > 1:
            raise OutboxUnavailable("the disk is full")
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(changes, "_apply", fails)
    done = cli("outbox", "redrive", "--all")

    assert done.status == 1
    assert done.err.splitlines() == [
        "1 entry is pending again; for the rest give the command once more",
        "error: the disk is full",
    ]
    assert states(box) == {1: "pending", 2: "parked", 3: "pending", 4: "pending"}
    monkeypatch.setattr(changes, "_apply", real)
    assert cli("outbox", "redrive", "--all").out.startswith("1 entry is")
    assert states(box)[2] == "pending"


# Superseded: the state that an entry delivers, compared with the document index.


def test_an_entry_with_another_state_than_the_index_is_superseded(
    box: Outbox, cli: Command
) -> None:
    """Of "a", 1 is the first state, 2 the one in the index."""
    assert superseded(cli("outbox", "redrive", "--all", "--dry-run", "--json")) == {
        1: True,
        2: False,
    }
    box.step(box.batch(change(A2, A3)))

    done = cli("outbox", "redrive", "1", "2")
    assert done.out.count("superseded: its document has another state now") == 2


def test_a_newer_state_that_waits_in_the_outbox_supersedes_as_well(
    box: Outbox, cli: Command
) -> None:
    """It follows the entry, so nothing old stays: the word is the same, to be on the safe side."""
    box.step(box.batch(change(A2, A3)))

    assert superseded(cli("outbox", "redrive", "2", "1", "--json")) == {1: True, 2: True}
    assert states(box)[5] == "pending"


def test_a_state_that_came_back_is_not_superseded(box: Outbox, cli: Command) -> None:
    box.step(box.batch(change(A2, A3), change(A3, A1)))
    box.settle(*box.sink.entries[-2:])

    assert superseded(cli("outbox", "redrive", "--all", "--json")) == {1: False, 2: True}


def test_the_last_word_on_a_deleted_document_is_not_superseded(box: Outbox, cli: Command) -> None:
    box.step(box.batch(remove(B1)))
    box.step(outcomes=[Outcomes(parked=[Failure(number, "refused", "") for number in (3, 5)])])

    assert superseded(cli("outbox", "redrive", "3", "5", "--json")) == {3: True, 5: False}


def test_a_document_that_was_deleted_within_its_first_snapshot_has_no_state(
    tmp_path: Path, cli: Command
) -> None:
    """The index keeps a mark for it."""
    with outbox(tmp_path, table(is_baseline=True)) as made:
        made.step(made.opened(), made.batch(add(A1), remove(A1)))
        failures = [Failure(number, "refused", "no") for number in (1, 2)]
        made.step(outcomes=[Outcomes(parked=failures)])
        assert made.rows("SELECT hex(digest) FROM documents") == [("00" * 16,)]

        assert superseded(cli("outbox", "redrive", "--all", "--json")) == {1: True, 2: False}


@pytest.mark.usefixtures("box")
def test_what_is_pending_already_is_not_said_to_be_superseded(cli: Command) -> None:
    assert superseded(cli("outbox", "redrive", "1", "3", "--json")) == {1: True, 3: None}


def test_whether_a_body_that_is_no_json_is_superseded_is_not_guessed(
    box: Outbox, cli: Command
) -> None:
    with box.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE entries SET body = x'00' WHERE id = 2")

    assert superseded(cli("outbox", "redrive", "2", "--dry-run", "--json")) == {2: None}
    assert "cannot be told" in cli("outbox", "redrive", "2").out


# Park and discard.


def test_an_entry_is_parked_by_hand(box: Outbox, cli: Command) -> None:
    assert cli("outbox", "park", "3").out == "3 is parked (create of db.t 7)\n"
    assert "3 is parked already" in cli("outbox", "park", "3").out

    assert box.rows("SELECT state, reason FROM entries WHERE id = 3") == [("parked", "operator")]
    (entry,) = cli("outbox", "history", "--json").objects
    assert (entry["action"], entry["was"], entry["table"]) == ("park", "pending", "db.t")
    assert entry["by"].startswith(f"{getpass.getuser()}@")


def test_what_is_discarded_is_gone_and_recorded(box: Outbox, cli: Command) -> None:
    done = cli("outbox", "discard", "--yes", "1", "3")

    assert done.status == 0
    assert done.err == ""
    assert states(box) == {2: "parked", 4: "pending"}
    first, second = cli("outbox", "history", "--json").objects
    assert (first["first_entry"], first["key"], first["op"], first["was"]) == (
        1,
        "a",
        "create",
        "parked",
    )
    assert (second["first_entry"], second["key"], second["captured_at"]) == (
        3,
        7,
        "2023-11-14T22:13:21.000Z",
    )
    assert "discard" in cli("outbox", "history").out


def test_where_nobody_can_be_asked_nothing_is_discarded(box: Outbox, cli: Command) -> None:
    before = states(box)

    done = cli("outbox", "discard", "1")

    assert done.status == 2
    assert "use --yes" in done.err
    assert states(box) == before


@pytest.mark.parametrize(("answer", "status"), [("n\n", 1), ("\n", 1), ("y\n", 0)])
def test_discarding_asks_first(
    answer: str, status: int, box: Outbox, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

        def readline(self, *_: object) -> str:
            return answer

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(commands, "_MAX_SHOWN", 1)
    done = cli("outbox", "discard", "1", "2")

    assert done.status == status
    assert '1: create of db.t "a", parked' in done.err
    assert "and 1 more" in done.err
    assert ("nothing was changed" in done.err) is (status == 1)
    assert (1 in states(box)) is (status == 1)


@pytest.mark.parametrize(
    ("arguments", "is_said"),
    [
        (["park", "3"], True),
        (["park", "1"], False),
        (["discard", "--yes", "3"], True),
        (["discard", "--yes", "1"], False),
    ],
)
def test_it_is_said_that_a_running_service_may_be_publishing_it(
    arguments: list[str],
    is_said: bool,  # noqa: FBT001 -- pytest passes it so
    box: Outbox,
    cli: Command,
) -> None:
    with exclusively(box.path):
        done = cli("outbox", *arguments)

    assert done.status == 0
    assert ("may still be delivered" in done.err) is is_said
    assert "may still be delivered" not in cli("outbox", "park", "4").err


def test_what_was_parked_by_hand_a_moment_ago_may_be_under_way(box: Outbox, cli: Command) -> None:
    with exclusively(box.path):
        cli("outbox", "park", "3")
        done = cli("outbox", "discard", "--yes", "3")

    assert "may still be delivered" in done.err
    assert 3 not in states(box)


def test_an_outbox_that_stays_locked_is_said(
    box: Outbox, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.outbox.sqlite.connection._BUSY_TIMEOUT_MS", 1)
    before = states(box)
    with box.engine.begin():
        done = cli("outbox", "park", "3")

    assert done.status == 1
    assert "database is locked" in done.err
    assert len(done.err.splitlines()) == 2
    assert states(box) == before


def test_the_commands_work_on_a_copy(box: Outbox, cli: Command, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with sqlite3.connect(box.path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    before = states(box)

    assert cli("outbox", "redrive", "--all", "--outbox", f"sqlite:///{copy}").status == 0

    assert states(box) == before
    listed = cli("outbox", "list", "--json", "--outbox", f"sqlite:///{copy}").objects
    assert {entry["state"] for entry in listed} == {"pending"}
