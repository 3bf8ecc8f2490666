"""Elements of a changefeed, made from plain documents as RethinkDB would write them."""

import json
from collections.abc import Mapping

import msgspec

from replicator.domain.feed_element import Change

Document = Mapping[str, object]


def raw(document: Document | None) -> msgspec.Raw:
    text = json.dumps(document, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return msgspec.Raw(text.encode("utf-8", "backslashreplace"))


def initial(document: Document) -> Change:
    return Change(new_val=raw(document), type="initial")


def add(document: Document) -> Change:
    return Change(old_val=raw(None), new_val=raw(document), type="add")


def change(old: Document, new: Document) -> Change:
    return Change(old_val=raw(old), new_val=raw(new), type="change")


def remove(document: Document) -> Change:
    return Change(old_val=raw(document), new_val=raw(None), type="remove")
