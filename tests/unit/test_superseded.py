"""What a body says of its document before and after, in every envelope."""

import pytest

from replicator.domain.reconcile import digest
from replicator.domain.superseded import States, states

OLD, NEW = b'{"id":1,"v":[1,{"a":"}"}]}', b'{"id":1,"v":2}'


@pytest.mark.parametrize(
    "body",
    [
        b'{"old_val":%b,"new_val":%b}' % (OLD, NEW),
        b'{"specversion":"1.0","id":"x","data":{"old_val":%b,"new_val":%b}}' % (OLD, NEW),
        b'{"before":%b,"after":%b,"op":"u"}' % (OLD, NEW),
    ],
)
def test_states_are_read_from_every_envelope(body: bytes) -> None:
    assert states(body) == States(digest(OLD), digest(NEW))


def test_null_is_no_document() -> None:
    assert states(b'{"old_val":null,"new_val":%b}' % NEW) == States(None, digest(NEW))
    assert states(b'{"old_val":%b,"new_val":null}' % OLD) == States(digest(OLD), None)


def test_a_document_that_no_parser_takes_is_read() -> None:
    deep = b'{"a":' * 5000 + b"1" + b"}" * 5000

    assert states(b'{"old_val":null,"new_val":%b}' % deep) == States(None, digest(deep))


@pytest.mark.parametrize(
    "body", [b"", b"\0", b"[]", b"{}", b'{"old_val":1}', b'{"specversion":"1.0"}', b'{"before":1}']
)
def test_what_is_no_such_body_is_not_guessed(body: bytes) -> None:
    assert states(body) is None
