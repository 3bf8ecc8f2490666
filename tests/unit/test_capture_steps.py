"""Several batches in one step: each sees what those before it changed, and the outbox the last."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from replicator.domain.model import Known
from tests.support.feed_elements import add, change, initial, remove
from tests.support.outbox import Outbox, outbox, table

A1, A2, B1, C1 = ({"id": "a", "v": 1}, {"id": "a", "v": 2}, {"id": "b", "v": 1}, {"id": "c"})


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    """A table of one document, whose feed is ready."""
    with outbox(tmp_path) as made:
        made.step(made.opened(), made.batch(initial(A1)), made.ready())
        yield made


def test_a_document_that_comes_in_several_batches_of_one_step_has_one_row(box: Outbox) -> None:
    row = box.rows("SELECT id, key FROM documents")
    box.step(
        box.batch(change(A1, A2), add(B1)),
        box.batch(change(A2, A1), remove(B1)),
        box.batch(add(B1), add(C1)),
        box.batch(remove(C1)),
    )

    assert [op for op, _, _ in box.sink.said()[1:]] == [
        *("update", "create", "update", "delete", "create", "create", "delete"),
    ]
    assert box.sink.numbers == list(range(1, 9))
    keys = box.rows("SELECT id, key FROM documents ORDER BY key")
    assert keys[0] == row[0]
    assert [key for _, key in keys] == ['"a"', '"b"']
    again = box.restart(room=0)
    again.step(again.opened(), again.batch(initial(A1), initial(B1)), again.ready())
    assert again.rows("SELECT max(id) FROM entries") == [(8,)], "the index has the last states"
    again.close()


def test_a_key_is_looked_up_once_in_a_step_also_where_it_has_no_row(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up, asked = box.outbox.look_up, []

    def noting(feed_id: int, keys: Sequence[str], **options: bool) -> dict[str, Known]:
        asked.append(keys)
        return look_up(feed_id, keys, **options)

    monkeypatch.setattr(box.outbox, "look_up", noting)
    box.step(
        box.batch(change(A1, A2), add(B1), remove(B1)),
        box.batch(add(B1), add(C1)),
        box.batch(remove(B1), remove(A2)),
    )

    assert asked == [['"a"', '"b"'], ['"c"']]


def test_a_document_that_is_read_deleted_and_made_again_in_one_step_is_not_a_delete(
    box: Outbox,
) -> None:
    box.step(box.closed())
    box.step(
        box.opened(),
        box.batch(initial(A1)),
        box.batch(remove(A1)),
        box.batch(add(A2)),
        box.ready(),
    )

    assert [op for op, _, _ in box.sink.said()[1:]] == ["delete", "create"]
    assert box.rows("SELECT key FROM documents") == [('"a"',)]
    assert box.rows("SELECT created, updated, deleted FROM gaps") == [(0, 0, 0)]


def test_documents_of_two_tables_with_the_same_keys_have_rows_of_their_own(tmp_path: Path) -> None:
    names = [table()._replace(name=table().name._replace(table=name)) for name in ("t", "u")]
    with outbox(tmp_path, *names) as box:
        box.step(box.opened(), box.opened(feed_id=2), box.ready(), box.ready(2))
        box.step(
            box.batch(add(A1), add(B1)),
            box.batch(add(A1), feed_id=2),
            box.batch(remove(A1)),
            box.batch(change(A1, A2), feed_id=2),
        )

        assert box.rows("SELECT feed_id, key FROM documents ORDER BY feed_id") == [
            (1, '"b"'),
            (2, '"a"'),
        ]
        assert [entry.feed_id for entry in box.sink.entries] == [1, 1, 2, 1, 2]
