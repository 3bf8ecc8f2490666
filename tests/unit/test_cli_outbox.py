"""What the commands show of an outbox, while nothing runs on it."""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from replicator.domain.feed_element import Change
from replicator.domain.model import Cause, Failure, Outcomes, TableName
from replicator.operators import listing as inspect
from replicator.outbox.sqlite.lock import exclusively
from tests.support.command import Command, Done
from tests.support.feed_elements import add, change, initial
from tests.support.outbox import Outbox, outbox, table

A1, A2, B1 = {"id": "a", "v": 1}, {"id": "a", "v": 2}, {"id": 7, "text": 'é"\n', "big": 2**70}
OTHER = TableName("db", "other")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    """An outbox with four entries, the second of them parked."""
    with outbox(tmp_path, table(), table(OTHER)) as made:
        made.step(made.opened(), made.batch(initial(A1)), made.ready())
        made.step(made.batch(change(A1, A2), add(B1)))
        made.step(made.opened(feed_id=2), made.batch(initial(A1), feed_id=2), made.ready(2))
        made.step(outcomes=[Outcomes(parked=[Failure(2, "too_large", "it is too large")])])
        yield made


def ids(done: Done) -> list[int]:
    assert done.status == 0, done.err
    return [entry["id"] for entry in done.objects]


@pytest.mark.usefixtures("box")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], [1, 2, 3, 4]),
        (["--state", "parked"], [2]),
        (["--state", "pending"], [1, 3, 4]),
        (["--table", "db.other"], [4]),
        (["--key", "a"], [1, 2, 4]),
        (["--key", '"a"'], [1, 2, 4]),
        (["--key", "7"], [3]),
        (["--key", "7.0"], [3]),
        (["--key", "8"], []),
        (["--limit", "2"], [1, 2]),
        (["--limit", "2", "--after", "2"], [3, 4]),
        (["--table", "db.t", "--state", "pending", "--after", "1"], [3]),
    ],
)
def test_entries_are_listed_oldest_first_and_selected(
    arguments: list[str], expected: list[int], cli: Command
) -> None:
    assert ids(cli("outbox", "list", "--json", *arguments)) == expected


def test_a_list_goes_on_over_its_short_steps(
    box: Outbox, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect, "_STEP_ENTRIES", 1)

    assert ids(cli("outbox", "list", "--json")) == [1, 2, 3, 4]
    assert ids(cli("outbox", "list", "--json", "--key", "7")) == [3]
    assert ids(cli("outbox", "list", "--json", "--state", "parked")) == [2]
    assert [group["entries"] for group in cli("outbox", "stats", "--json").objects] == [1, 1, 2]
    assert box.feed().captured == 3


def test_an_entry_has_the_same_keys_for_programs_every_time(box: Outbox, cli: Command) -> None:
    entry = cli("outbox", "list", "--json", "--state", "parked").objects[0]

    assert entry.pop("age_seconds") > 0
    assert entry == {
        "id": 2,
        "message_id": f"{box.store.outbox_id}-2",
        "table": "db.t",
        "op": "update",
        "origin": "feed",
        "key": "a",
        "state": "parked",
        "captured_at": "2023-11-14T22:13:21.000Z",
        "attempts": 1,
        "reason": "too_large",
        "last_error": "it is too large",
        "bytes": len('{"old_val":{"id":"a","v":1},"new_val":{"id":"a","v":2}}'),
    }


@pytest.mark.usefixtures("box")
def test_people_get_a_table_and_are_told_that_there_is_more(cli: Command) -> None:
    done = cli("outbox", "list", "--limit", "3")

    assert done.status == 0
    assert "it is too large" in done.out
    assert "db.other" not in done.out
    assert done.err == "there are more: --after 3\n"


@pytest.mark.usefixtures("box")
def test_one_entry_is_shown_whole_and_its_numbers_stay_exact(cli: Command) -> None:
    shown = cli("outbox", "show", "3").out

    assert str(2**70) in shown
    assert '"new_val": {' in shown
    assert cli("outbox", "show", "3", "--json").object["body"] == {"old_val": None, "new_val": B1}


def test_a_document_that_no_parser_takes_is_shown_as_it_is(box: Outbox, cli: Command) -> None:
    deep, half = '{"a":' * 100_000 + "1" + "}" * 100_000, '"\\udc4b hello"'
    odd = [f'{{"id":{half},"x":{x}}}' for x in ("1", deep)]
    box.step(box.batch(*(Change(new_val=msgspec.Raw(each.encode()), type="add") for each in odd)))

    for number, each in enumerate(odd, 5):
        shown = cli("outbox", "show", str(number))
        assert shown.status == 0
        assert each in shown.out
        shown = cli("outbox", "show", str(number), "--json")
        assert shown.status == 0
        assert each in shown.out
    assert half in cli("outbox", "list").out
    assert cli("outbox", "list", "--json").objects[4]["key"] == "\udc4b hello"


def test_an_entry_is_found_by_its_message_id(box: Outbox, cli: Command) -> None:
    found = cli("outbox", "show", f"{box.store.outbox_id}-1", "--json")

    assert found.object["id"] == 1
    assert cli("outbox", "show", "abcdefgh-1").status == 1


@pytest.mark.usefixtures("box")
def test_an_entry_that_is_gone_or_never_was_is_said(cli: Command) -> None:
    done = cli("outbox", "show", "99")

    assert done.status == 1
    assert done.err.startswith("error: there is no entry 99 in this outbox\nhint: ")
    assert cli("outbox", "show", "first").status == 2


@pytest.mark.usefixtures("box")
def test_entries_are_counted_by_table_and_state(cli: Command) -> None:
    groups = cli("outbox", "stats", "--json").objects

    assert [(group["table"], group["state"], group["entries"]) for group in groups] == [
        ("db.other", "pending", 1),
        ("db.t", "parked", 1),
        ("db.t", "pending", 2),
    ]
    assert sum(group["bytes"] for group in groups) == sum(
        entry["bytes"] for entry in cli("outbox", "list", "--json").objects
    )
    assert "db.other" in cli("outbox", "stats").out


@pytest.mark.usefixtures("box")
def test_an_unknown_table_is_no_empty_list(cli: Command) -> None:
    for command in (["outbox", "list", "--table"], ["feed", "gaps", "--table"]):
        done = cli(*command, "db.typo")

        assert done.status == 2
        assert "no feed of the table db.typo" in done.err


def test_gaps_are_listed_with_their_repair(box: Outbox, cli: Command) -> None:
    box.step(box.closed(Cause.OVERFLOW, skipped=9))
    assert "not repaired yet" in cli("feed", "gaps").out
    box.step(box.opened(), box.batch(initial(A1)), box.ready())

    (gap,) = cli("feed", "gaps", "--json", "--table", "db.t").objects
    assert (gap["table"], gap["cause"], gap["from"][:4]) == ("db.t", "overflow", "2023")
    assert gap["seconds"] == 3.0  # two, and the one for what was on its way
    assert (gap["created"], gap["updated"], gap["deleted"], gap["skipped"]) == (0, 1, 1, 9)
    assert cli("feed", "gaps", "--json", "--table", "db.other").objects == []


def test_status_works_on_the_outbox_alone(box: Outbox, cli: Command) -> None:
    facts = cli("status", "--json").object

    assert facts["running"] is False
    assert facts["broker"] is None
    assert facts["outbox"]["id"] == box.store.outbox_id
    assert (facts["outbox"]["pending"], facts["outbox"]["parked"]) == (3, 1)
    assert facts["outbox"]["oldest_entry_age_seconds"] > 0
    assert [(feed["table"], feed["state"]) for feed in facts["feeds"]] == [
        ("db.other", "ready"),
        ("db.t", "ready"),
    ]
    assert "not running" in cli("status").out


def test_status_tells_that_a_service_runs_which_does_not_answer(box: Outbox, cli: Command) -> None:
    with exclusively(box.path):
        assert cli("status", "--json").object["running"] is True
        assert "does not answer" in cli("status").out
    assert cli("status", "--json").object["running"] is False


def test_feeds_are_listed_in_the_form_of_status(box: Outbox, cli: Command) -> None:
    box.step(box.closed(error="gone"))

    feeds = cli("feed", "list", "--json").objects
    assert feeds == cli("status", "--json").object["feeds"]
    assert (feeds[1]["state"], feeds[1]["last_error"]) == ("lost", "gone")
    assert "no replicator runs" in cli("feed", "list").err


def test_a_baseline_is_taken_at_the_next_start(box: Outbox, cli: Command) -> None:
    assert cli("feed", "baseline", "db.t", "--dry-run").status == 0
    assert cli("feed", "baseline", "db.t").status == 2, "no terminal to ask at"
    assert box.rows("SELECT absorb_changed FROM feeds ORDER BY id") == [(0,), (0,)]
    done = cli("feed", "baseline", "db.t", "--yes")

    assert (done.status, done.err) == (0, "")
    (recorded,) = cli("outbox", "history", "--json").objects
    assert (recorded["action"], recorded["table"]) == ("baseline", "db.t")
    assert box.rows("SELECT absorb_changed FROM feeds ORDER BY id") == [(1,), (0,)]
    again = box.restart()
    again.step(again.opened(), again.batch(initial(A2 | {"v": 9}), initial(B1)), again.ready())
    assert again.sink.said()[3:] == []
    assert again.feed().absorb_changed is False
    again.close()


def test_a_baseline_under_a_running_service_is_warned_about(box: Outbox, cli: Command) -> None:
    with exclusively(box.path):
        done = cli("feed", "baseline", "db.t", "--yes")

    assert done.status == 0
    assert "runs on this outbox now" in done.err
    assert cli("feed", "baseline", "db.typo", "--yes").status == 2


@pytest.mark.usefixtures("box")
def test_migrating_what_is_current_changes_nothing(cli: Command) -> None:
    assert cli("migrate", "--json").object["changed"] is False
    assert "already" in cli("migrate").out


def test_migrating_makes_the_schema_unless_a_service_runs(tmp_path: Path, cli: Command) -> None:
    path = tmp_path / "outbox.db"
    path.touch()
    with exclusively(path):
        refused = cli("migrate")
    assert refused.status == 2
    assert "in use by another replicator" in refused.err

    assert cli("migrate", "--json").object["before"] is None
    assert json.loads(cli("status", "--json").out)["feeds"] == []
    assert "no feeds yet" in cli("feed", "list").err


@pytest.mark.usefixtures("box")
@pytest.mark.parametrize("command", [("outbox", "list"), ("outbox", "export"), ("feed", "gaps")])
def test_a_limit_beyond_every_count_is_wrong_usage(cli: Command, command: tuple[str, str]) -> None:
    done = cli(*command, "--limit", str(2**63))

    assert done.status == 2
    assert "--limit" in done.err


def test_entries_behind_one_are_named_like_an_entry(box: Outbox, cli: Command) -> None:
    first, second, *_ = box.sink.entries
    outbox_id = box.store.outbox_id

    for name in (str(first.number), f"{outbox_id}-{first.number}"):
        shown = cli("outbox", "list", "--json", "--after", name).objects
        assert [each["id"] for each in shown][:1] == [second.number]
        exported = cli("outbox", "export", "--json", "--after", name).objects
        assert exported[0]["id"] == second.number
    assert "another outbox" in cli("outbox", "list", "--after", "abcdefgh-1").err
    assert "neither an entry's number" in cli("outbox", "list", "--after", "x").err
