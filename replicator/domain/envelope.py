"""The bodies that consumers see: the envelopes ``change``, ``cloudevents`` and ``debezium``.

In each of them the values are the bytes that RethinkDB sent. A body is made when a change is
captured, and kept as it is: entries captured before a setting changed keep their form.
"""

import json
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from replicator.domain import deep_json
from replicator.domain.instants import rfc3339
from replicator.domain.model import Entry, Op, Origin, TableName
from replicator.domain.properties import message_id

Wrap = Callable[[bytes | msgspec.Raw, bytes | msgspec.Raw], bytes]
"""Makes a body, or its core, of the old and the new document (raw JSON, ``null`` for none)."""
Seal = Callable[[Entry], bytes]
"""Makes the body of an entry whose body is such a core: it adds what only an entry has."""

NULL: Final = b"null"
STRUCTURED: Final = b'{"specversion":'
"""The beginning of every CloudEvent's body, and of no other body."""

_CONNECTOR: Final = "rethinkdb"
_OPS: Final = {Op.CREATE: b"c", Op.UPDATE: b"u", Op.DELETE: b"d"}


def change_envelope(old: bytes | msgspec.Raw, new: bytes | msgspec.Raw) -> bytes:
    """Return ``{"old_val": …, "new_val": …}`` around raw JSON values."""
    return b"".join((b'{"old_val":', old, b',"new_val":', new, b"}"))


class Envelope(NamedTuple):
    """How the bodies of a table are made: in one step, or in two."""

    wrap: Wrap = change_envelope
    seal: Seal | None = None


def envelope(form: str, outbox: str, name: TableName, version: str) -> Envelope:
    """Return the envelope of a table.

    Args:
        form: ``change``, ``cloudevents`` or ``debezium``.
        outbox: the 8 characters in front of each message id.
        name: which table.
        version: this program's.

    Raises:
        ValueError: the form is unknown.
    """
    match form:
        case "change":
            return Envelope()
        case "cloudevents":
            return Envelope(seal=_cloud_event(outbox, name))
        case "debezium":
            return Envelope(_before_and_after, _debezium(outbox, name, version))
    raise ValueError(f"unknown envelope {form!r}")


def _cloud_event(outbox: str, name: TableName) -> Seal:
    """Return what makes a CloudEvent 1.0 in the structured mode of JSON (its JSON Event Format).

    The subject is the primary key as JSON text: that tells 1 from "1", and it is never empty,
    which the specification demands.
    """
    source = f"/rethinkdb/{name.database}/{name.table}".encode()

    def seal(entry: Entry) -> bytes:
        return (
            STRUCTURED + b'"1.0","id":"%b","source":"%b","type":"replicator.document.%b",'
            b'"subject":%b,"time":"%b","origin":"%b",'
            b'"datacontenttype":"application/json","data":%b}'
        ) % (
            message_id(outbox, entry.number).encode(),
            source,
            entry.op.value.encode(),
            json.dumps(entry.key).encode(),
            rfc3339(entry.captured_at).encode(),
            entry.origin.value.encode(),
            entry.body,
        )

    return seal


def _before_and_after(old: bytes | msgspec.Raw, new: bytes | msgspec.Raw) -> bytes:
    return b'{"before":%b,"after":%b' % (old, new)


def _debezium(outbox: str, name: TableName, version: str) -> Seal:
    """Return what completes an event as Debezium's JSON converter writes it without a schema.

    A document of a table's first snapshot is a read (``r``). What a later comparison finds
    happened in the meantime, so it has the operation of a change.
    """
    head = (
        f'"version":{json.dumps(version)},"connector":"{_CONNECTOR}","name":"{outbox}",'
        f'"db":"{name.database}","table":"{name.table}"'
    ).encode()

    def seal(entry: Entry) -> bytes:
        is_first = entry.origin is Origin.SNAPSHOT
        milliseconds = entry.captured_at // 1000
        return b'%b,"op":"%b","source":{%b,"ts_ms":%d,"snapshot":"%b","sequence":"%b",%b},%b}' % (
            entry.body,
            b"r" if is_first else _OPS[entry.op],
            head,
            milliseconds,
            b"true" if is_first else b"false",
            b'[\\"%d\\"]' % entry.number,
            b'"key":%b,"origin":"%b"'
            % (json.dumps(entry.key).encode(), entry.origin.value.encode()),
            b'"ts_ms":%d,"transaction":null' % milliseconds,
        )

    return seal


def new_document(body: bytes) -> bytes:
    """Return the new document in a body of any envelope: raw JSON, ``null`` for none.

    Raises:
        ValueError: it is not such a body.
    """
    members = deep_json.members(body)
    if "specversion" in members:
        members = deep_json.members(members.get("data", b""))
    document = members.get("after", members.get("new_val"))
    if document is None:
        raise ValueError("the body has no new document")
    return document


def key_document(primary_key: str, key: str) -> bytes:
    """Return the document that stands for a deleted one of which only the key is known.

    The name may contain half a surrogate pair: UTF-8 has no bytes for it, JSON has an escape.
    """
    name = json.dumps(primary_key, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return b"{%b:%b}" % (name, key.encode())
