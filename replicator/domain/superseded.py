"""Whether an entry still is the news: read from bodies, and from the digest in the index.

The outbox keeps no history, so it cannot be looked up which entries of a document were confirmed.
But each body has the state before and the state after. Where the entries that are left lead from
one to the next and to the state of the index, nothing between them is gone but what led away from
a state and back to it.
"""

from typing import NamedTuple

from replicator.domain import deep_json
from replicator.domain.envelope import NULL
from replicator.domain.reconcile import digest


class States(NamedTuple):
    """Digests of a document before and after a change; None: there was no document."""

    before: bytes | None
    after: bytes | None


def states(body: bytes) -> States | None:
    """Return what a body of any envelope says of its document; None for what is no such body."""
    try:
        members = deep_json.members(body)
        if "specversion" in members:
            members = deep_json.members(members["data"])
        old = members["before"] if "before" in members else members["old_val"]
        new = members["after"] if "after" in members else members["new_val"]
    except (ValueError, KeyError):
        return None
    return States(_digest(old), _digest(new))


def _digest(document: bytes) -> bytes | None:
    return None if document == NULL else digest(document)
