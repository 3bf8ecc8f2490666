"""`outbox export`: whole entries, a line each, as the settings would publish them."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.domain.model import Failure, Outcomes, TableName
from replicator.operators import export
from tests.support.command import Command
from tests.support.feed_elements import add, change, initial
from tests.support.outbox import Outbox, outbox, table

A1, A2, B1 = {"id": "a", "v": 1}, {"id": "a", "v": 2}, {"id": 7}
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


def test_an_export_has_everything_to_publish_an_entry_elsewhere(
    box: Outbox, cli: Command, tmp_path: Path
) -> None:
    (tmp_path / "settings.toml").write_text(
        '[[tables]]\nname = "db.t"\nrouting_key = "{db}.x.{op}"\n'
        '[rabbitmq]\nexchange = "elsewhere"\npersistent = false\n'
    )
    exported = cli("outbox", "export", "--config", str(tmp_path / "settings.toml"))
    assert exported.err == ""
    first, second, *_ = exported.objects

    assert first["properties"].pop("headers") == {"x-replicator-origin": "snapshot"}
    assert second == {
        "id": 2,
        "table": "db.t",
        "key": "a",
        "op": "update",
        "origin": "feed",
        "state": "parked",
        "captured_at": "2023-11-14T22:13:21.000Z",
        "attempts": 1,
        "reason": "too_large",
        "last_error": "it is too large",
        "exchange": "elsewhere",
        "routing_key": "db.x.update",
        "properties": {
            "content_type": "application/json",
            "delivery_mode": 1,
            "type": "update",
            "message_id": f"{box.store.outbox_id}-2",
            "timestamp": 1_700_000_001,
            "headers": {},
        },
        "body": '{"old_val":{"id":"a","v":1},"new_val":{"id":"a","v":2}}',
        "body_encoding": "utf-8",
    }


def test_an_export_has_full_headers_where_the_service_publishes_them(
    box: Outbox, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATOR_RABBITMQ__HEADERS", "full")
    with box.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE entries SET body = x'00ff' WHERE id = 4")
    (entry,) = cli("outbox", "export", "--after", "3").objects

    assert entry["routing_key"] == "other.create"
    assert entry["properties"]["headers"]["x-replicator-entry"] == 4
    assert entry["body_encoding"] == "base64"
    assert base64.b64decode(entry["body"]) == b"\x00\xff"


@pytest.mark.usefixtures("box")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], [1, 2, 3, 4]),
        (["--state", "parked"], [1, 2]),
        (["--table", "db.other"], [4]),
        (["--key", "a", "--state", "pending"], [4]),
        (["--limit", "2", "--after", "1"], [2, 3]),
    ],
)
def test_an_export_takes_the_filters_of_the_list_and_goes_in_steps(
    arguments: list[str], expected: list[int], cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_STEP_BYTES", 1)

    exported = cli("outbox", "export", *arguments).out.splitlines()
    assert [json.loads(line)["id"] for line in exported] == expected


def test_a_compound_key_is_found_as_people_write_it(box: Outbox, cli: Command) -> None:
    box.step(box.batch(add({"id": ["a", 1, "ü"]})))

    exported = cli("outbox", "export", "--key", '["a", 1, "ü"]')

    assert exported.err == ""
    assert exported.object["key"] == ["a", 1, "ü"]


@pytest.mark.usefixtures("box")
@pytest.mark.parametrize("command", ["list", "export"])
def test_a_selection_of_nothing_is_said_to_be_that(command: str, cli: Command) -> None:
    selected = cli("outbox", command, "--key", '["a", 2]')

    assert (selected.status, selected.out) == (0, "")
    assert "no such entries in this outbox: they were confirmed, or never captured" in selected.err
