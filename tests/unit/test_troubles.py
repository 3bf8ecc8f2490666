"""What is wrong right now, in words: one test for each thing that can be."""

from typing import Any

import pytest

from replicator.web.troubles import Signs, Trouble, find_troubles, hint_for
from tests.support.observed import FakeService, feed_of


@pytest.fixture
def service() -> FakeService:
    return FakeService()


def found(service: FakeService) -> list[Trouble]:
    return find_troubles(service.facts(), service.signs)


def only(service: FakeService) -> Trouble:
    (trouble,) = found(service)
    assert trouble.hint
    assert trouble.text.endswith(".")
    return trouble


def test_nothing_is_wrong_when_all_is_well(service: FakeService) -> None:
    assert found(service) == []


def test_a_service_that_does_not_run_says_so_and_nothing_of_the_broker_and_the_feeds(
    service: FakeService,
) -> None:
    service.changed = {"running": False}
    service.broker = None
    service.feeds = [feed_of("db.t", "initializing")]

    trouble = only(service)

    assert (trouble.level, trouble.text) == ("error", "The service does not run.")
    assert "replicator run" in trouble.hint


def test_a_service_that_runs_and_does_not_answer_says_so(service: FakeService) -> None:
    service.broker = None

    assert only(service).text == "The service runs, but its HTTP address does not answer."


def test_a_list_of_tables_that_is_not_known_says_why(service: FakeService) -> None:
    cause = {"part": "discovery", "state": "the list of tables is not known", "error": "refused"}
    cause["since"] = "2026-11-23T10:00:00Z"
    service.changed = {"not_ready": [cause]}

    trouble = only(service)

    assert (trouble.level, trouble.part, trouble.detail) == ("error", "discovery", "refused")
    assert trouble.since == "2026-11-23T10:00:00Z"


def test_a_table_whose_feed_is_not_made_yet_is_named_and_others_are_not_named_twice(
    service: FakeService,
) -> None:
    causes = [{"part": "feed", "table": table} for table in ("shop.orders", "shop.new")]
    service.changed = {"not_ready": causes}

    assert only(service).table == "shop.new"


def test_a_table_that_was_dropped_is_no_trouble(service: FakeService) -> None:
    service.feeds = [feed_of("db.t", "dropped")]

    assert found(service) == []


def test_a_service_that_stops_is_no_error(service: FakeService) -> None:
    service.changed = {"not_ready": [{"part": "service", "state": "stopping"}]}

    assert only(service)[:3] == ("warning", "service", "The service is stopping.")


def test_a_loop_that_makes_no_progress_is_named(service: FakeService) -> None:
    service.signs = Signs(stuck=("store",))

    trouble = only(service)

    assert trouble.level == "error"
    assert "no progress: store" in trouble.text


@pytest.mark.parametrize(
    ("state", "error", "level", "text"),
    [
        ("lost", "the server went away", "error", "The feed of db.t is lost."),
        ("lost", None, "error", "The feed of db.t is not open yet."),
        ("initializing", None, "warning", "The snapshot of db.t is being compared"),
        ("paused", None, "error", "The feed of db.t is paused, because the outbox is full."),
    ],
)
def test_a_feed_that_is_not_ready_says_why_and_since_when(
    service: FakeService, state: str, error: str | None, level: str, text: str
) -> None:
    service.feeds.append(feed_of("db.t", state, last_error=error, snapshot_documents=10))

    trouble = only(service)

    assert (trouble.level, trouble.part, trouble.table) == (level, "feed", "db.t")
    assert trouble.text.startswith(text)
    assert trouble.since == "2026-11-23T10:00:00.000Z"
    assert trouble.detail == ("10 documents so far" if state == "initializing" else error)


def test_a_guarded_feed_says_how_much_is_held_back_and_not_to_wait(service: FakeService) -> None:
    gap = {"cause": "disconnect", "from": "2026-11-23T09:59:00.000Z"}
    guarded = {"deletes": 5000, "documents": 6000, "at": "2026-11-23T10:00:00.000Z"}
    service.feeds.append(feed_of("db.t", "guarded", gap=gap, guarded=guarded))

    trouble = only(service)

    assert (trouble.level, trouble.part, trouble.table) == ("error", "feed", "db.t")
    assert trouble.text.startswith("Deletes of db.t are held back")
    assert trouble.detail == "5,000 documents; the index had 6,000"
    assert "replicator feed accept-deletes" in trouble.hint


def test_an_open_gap_is_told_with_its_cause_also_while_the_feed_is_lost(
    service: FakeService,
) -> None:
    gap = {"cause": "overflow", "from": "2026-11-23T09:00:00.000Z"}
    service.feeds = [feed_of("db.t", "lost", last_error="gone", gap=gap)]

    lost, open_gap = found(service)

    assert lost.text == "The feed of db.t is lost."
    assert "cause: overflow" in open_gap.text
    assert (open_gap.level, open_gap.since) == ("warning", gap["from"])


def test_an_error_of_an_earlier_loss_is_no_trouble_once_the_feed_is_ready(
    service: FakeService,
) -> None:
    service.feeds = [feed_of("db.t", "ready", last_error="was gone")]

    assert found(service) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"pending": 600, "parked": 200}, "over 80% full (outbox.max_entries)"),
        ({"bytes": 800_000}, "over 80% full (outbox.max_bytes)"),
        ({"pending": 1000, "full": True}, "is full (outbox.max_entries): the feeds are paused"),
        # Paused feeds go on at nine tenths, so it is full there still.
        ({"pending": 901, "full": True}, "is full (outbox.max_entries): the feeds are paused"),
        ({"bytes": 1_000_000, "full": True}, "is full (outbox.max_bytes): the feeds are paused"),
        (
            {"pending": 950, "bytes": 950_000, "full": True},
            "is full (outbox.max_entries and outbox.max_bytes)",
        ),
    ],
)
def test_an_outbox_that_is_full_or_nearly_so_names_the_limit(
    service: FakeService, changed: dict[str, Any], words: str
) -> None:
    service.outbox |= changed
    without_parked = [each for each in found(service) if "parked" not in each.text]

    (trouble,) = without_parked
    assert words in trouble.text
    assert trouble.level == ("error" if changed.get("full") else "warning")
    assert "bytes" in (trouble.detail or "")


def test_an_outbox_below_four_fifths_is_no_trouble(service: FakeService) -> None:
    service.outbox |= {"pending": 799, "bytes": 799_999}

    assert found(service) == []


def test_an_outbox_that_is_full_below_its_limits_has_no_room_on_its_volume(
    service: FakeService,
) -> None:
    service.outbox |= {"pending": 10, "full": True}
    service.signs = Signs(is_disk_nearly_low=True)

    trouble = only(service)

    assert trouble.level == "error"
    assert "volume has too little room" in trouble.text
    assert "free space" in trouble.hint


def test_a_volume_that_is_nearly_full_is_told_before_feeds_pause(service: FakeService) -> None:
    service.signs = Signs(is_disk_nearly_low=True)

    assert only(service).level == "warning"
    assert "will pause soon" in only(service).text


def test_an_outbox_that_cannot_be_written_says_why(service: FakeService) -> None:
    service.outbox["error"] = "database is locked"

    assert only(service).detail == "database is locked"
    assert only(service).level == "error"


@pytest.mark.parametrize(("parked", "detail"), [(1, "1 entry"), (1200, "1,200 entries")])
def test_parked_entries_are_counted_and_a_command_is_named(
    service: FakeService, parked: int, detail: str
) -> None:
    service.outbox |= {"parked": parked, "max_entries": 100_000}

    assert only(service).detail == detail
    assert "replicator outbox list --state parked" in only(service).hint


def test_a_broker_that_is_away_is_told_with_its_error_and_not_as_late(
    service: FakeService,
) -> None:
    service.broker = {**(service.broker or {}), "connected": False, "error": "refused"}
    service.outbox |= {"pending": 5, "oldest_entry_age_seconds": 1000.0}

    trouble = only(service)

    assert trouble.text == "RabbitMQ is not connected."
    assert (trouble.level, trouble.detail) == ("error", "refused")
    assert trouble.since == "2026-11-23T10:00:00.000Z"


def test_a_broker_that_blocks_is_told_as_such(service: FakeService) -> None:
    service.broker = {**(service.broker or {}), "blocked": True}

    assert "an alarm blocks publishers" in only(service).text
    assert "rabbitmqctl status" in only(service).hint


def test_refused_messages_are_counted(service: FakeService) -> None:
    service.broker = {**(service.broker or {}), "refused": 7}

    assert only(service)[:2] == ("warning", "broker")
    assert only(service).detail == "7 messages"


def test_a_backlog_that_waits_though_the_broker_takes_messages_is_late(
    service: FakeService,
) -> None:
    service.outbox |= {"pending": 5, "oldest_entry_age_seconds": 59.0}
    assert found(service) == []

    service.outbox |= {"oldest_entry_age_seconds": 61.0}
    assert only(service).detail == "the oldest for 1 min 1 s"


@pytest.mark.parametrize("policy", ["drop", "hold", "park"])
def test_unroutable_messages_are_a_trouble_of_their_own_only_while_they_are_dropped(
    service: FakeService, policy: str
) -> None:
    service.signs = Signs(unroutable=3, on_unroutable=policy)

    texts = [each.text for each in found(service)]

    dropped = ["Messages are dropped because no queue takes them."]
    assert texts == (dropped if policy == "drop" else [])


@pytest.mark.parametrize(("moved", "way"), [(3600.0, "set forward (or"), (-3600.0, "set back")])
def test_a_clock_that_was_set_is_told(service: FakeService, moved: float, way: str) -> None:
    service.signs = Signs(clock_moved_seconds=moved)

    assert way in only(service).text
    assert only(service).detail == "by 1 h"


def test_a_clock_that_is_corrected_by_seconds_is_no_trouble(service: FakeService) -> None:
    service.signs = Signs(clock_moved_seconds=-29.0)

    assert found(service) == []


def test_errors_come_before_warnings(service: FakeService) -> None:
    service.feeds = [feed_of("db.a", "initializing"), feed_of("db.b", "lost", last_error="x")]
    service.outbox["parked"] = 1

    assert [each.level for each in found(service)] == ["error", "warning", "warning"]


def test_the_text_stays_while_only_figures_move(service: FakeService) -> None:
    """A screen reader speaks each change of the text."""
    service.outbox |= {"pending": 850, "parked": 2, "oldest_entry_age_seconds": 100.0}
    service.broker = {**(service.broker or {}), "refused": 7}
    service.feeds = [feed_of("db.a", "initializing")]
    service.signs = Signs(unroutable=3, clock_moved_seconds=40.0)
    before = found(service)

    service.outbox |= {"pending": 860, "parked": 3, "oldest_entry_age_seconds": 110.0}
    service.broker |= {"refused": 8}
    service.feeds = [feed_of("db.a", "initializing", snapshot_documents=99)]
    service.signs = Signs(unroutable=4, clock_moved_seconds=40.0)
    after = found(service)

    assert [each.text for each in before] == [each.text for each in after]
    assert all(
        old.detail != new.detail
        for old, new in zip(before, after, strict=True)
        if old.part != "host"
    )


def test_each_cause_of_the_readiness_probe_has_advice() -> None:
    causes = [("feed", "lost"), ("feed", "initializing"), ("feed", "paused"), ("feed", "guarded")]
    causes += [("broker", "blocked"), ("broker", "disconnected"), ("service", "stopping")]
    causes += [("discovery", "the list of tables is not known"), ("outbox", "unwritable")]

    assert all(hint_for(*cause) for cause in causes)
    assert hint_for("feed", "unheard of") is None
