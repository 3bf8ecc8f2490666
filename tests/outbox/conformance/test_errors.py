"""What passes by itself is told from what does not, by every verb, and is safe to repeat."""

from collections.abc import Callable
from typing import Any

import pytest

from replicator.domain.model import Known
from replicator.errors import OutboxUnavailable, OutboxUnusable
from replicator.outbox.port import Outbox
from tests.outbox.conformance.databases import Database
from tests.outbox.conformance.steps import (
    DIGEST,
    NAME,
    append,
    appended,
    entry,
    inserted,
    report,
    search,
)

Verb = Callable[[Outbox], Any]

VERBS: dict[str, Verb] = {
    "prepare": lambda outbox: outbox.prepare(now=1),
    "register": lambda outbox: outbox.register(NAME, "{}"),
    "tables": lambda outbox: outbox.tables(),
    "not_dropped": lambda outbox: outbox.not_dropped(["db"]),
    "look_up": lambda outbox: outbox.look_up(1, ["1"], with_documents=True, is_in_order=False),
    "look_up in order": lambda outbox: outbox.look_up(
        1, ["1"], with_documents=False, is_in_order=True
    ),
    "count_unseen": lambda outbox: outbox.count_unseen(search(), 2),
    "unseen": lambda outbox: outbox.unseen(search()),
    "commit": lambda outbox: outbox.commit(report([1])),
    "page": lambda outbox: outbox.page(0, max_entries=5, max_bytes=100),
    "version": lambda outbox: outbox.version(),
    "orders_after": lambda outbox: outbox.orders_after(0),
    "totals": lambda outbox: outbox.totals(),
    "tidy": lambda outbox: outbox.tidy(),
}


@pytest.fixture(params=VERBS)
def verb(request: pytest.FixtureRequest) -> Verb:
    return VERBS[request.param]


@pytest.fixture
def outbox(outbox: Outbox) -> Outbox:
    """One with something in it."""
    outbox.commit(appended(*(entry(number, b"x" * 9000) for number in range(1, 30))))
    outbox.commit(report(range(2, 28)))
    outbox.commit(inserted({"1": Known(1, DIGEST, b"{}")}))
    return outbox


def failed(
    database: Database, outbox: Outbox, verb: Verb, kind: type[Exception], *, passes: bool
) -> int:
    """Let each statement of a verb fail in its turn; returns how many it has."""
    statement = 0
    while True:
        statement += 1
        with database.failing(statement, passes=passes) as failure:
            try:
                verb(outbox)
            except kind as err:
                assert err.hint  # noqa: PT017 -- not every verb fails
                assert failure.has_happened
        if not failure.has_happened:
            return statement - 1


def test_what_passes_by_itself_is_unavailable_and_safe_to_repeat(
    database: Database, outbox: Outbox, verb: Verb
) -> None:
    before = database.contents()
    with database.failing(1) as failure, pytest.raises(OutboxUnavailable) as caught:
        verb(outbox)
    assert failure.has_happened
    assert caught.value.hint
    assert caught.value.__cause__ is not None
    assert database.contents() == before, "nothing was done"

    assert failed(database, outbox, verb, OutboxUnavailable, passes=True) >= 1
    append(outbox, 30)
    assert [row[0] for row in database.rows("SELECT id FROM entries ORDER BY id")][-1] == 30


def test_what_does_not_pass_by_itself_is_unusable(
    database: Database, outbox: Outbox, verb: Verb
) -> None:
    before = database.contents()
    with database.failing(1, passes=False), pytest.raises(OutboxUnusable):
        verb(outbox)

    assert database.contents() == before
    assert failed(database, outbox, verb, OutboxUnusable, passes=False) >= 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_a_commit_that_is_interrupted_leaves_nothing(
    database: Database, outbox: Outbox, kind: type[BaseException]
) -> None:
    before = database.contents()
    for statement in (2, 3, 4):
        with database.failing(statement, kind=kind), pytest.raises(kind):
            append(outbox, 30, 31)
        assert database.contents() == before
    append(outbox, 30)

    assert database.rows("SELECT max(id), count(*) FROM entries") == [(30, 4)]
