"""Users, their passwords and what they may do.

A permission is looked up on the table, then on its database, then globally; the first that is set
decides. Global permissions do not apply to the system database. ``admin`` may do everything.
Source: RethinkDB's documentation of permissions and the answers of a 2.4.4 server.
"""

import hashlib
import os
from collections.abc import Callable

from replicator_sandbox.datum import Datum
from replicator_sandbox.reql_errors import op_failed, permission_denied
from replicator_sandbox.storage import SYSTEM_DATABASE_ID

ADMIN = "admin"
_ITERATIONS = 4096
_PERMISSIONS = ("read", "write", "config", "connect")

Place = tuple[str, ...]
"""Where a permission holds: () everywhere, (database id,), (database id, table id)."""


class Password:
    """A password as SCRAM keeps it; an empty one is hashed once, as RethinkDB does."""

    def __init__(self, text: str) -> None:
        """Salt and hash ``text``."""
        self.salt = os.urandom(16)
        self.iterations = _ITERATIONS if text else 1
        self.salted = hashlib.pbkdf2_hmac("sha256", text.encode(), self.salt, self.iterations)
        self.is_set = bool(text)


class Accounts:
    """All users; calls ``on_change`` when a user or a permission changes."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        """Start with ``admin`` without a password."""
        self.passwords: dict[str, Password] = {ADMIN: Password("")}
        self.grants: dict[tuple[str, Place], dict[str, bool]] = {}
        self._on_change = on_change

    def set_password(self, user: str, password: str) -> None:
        """Create ``user``, or give it another password."""
        self.passwords[user] = Password(password)
        self._on_change()

    def remove(self, user: str) -> None:
        """Delete ``user`` and its permissions; connections stay, and may do nothing."""
        del self.passwords[user]
        for place in [key for key in self.grants if key[0] == user]:
            del self.grants[place]
        self._on_change()

    def allows(self, user: str, permission: str, place: Place) -> bool:
        """Return whether ``user`` has ``permission`` at ``place``."""
        if user == ADMIN:
            return True
        for depth in range(len(place), -1, -1):
            if depth == 0 and place[:1] == (SYSTEM_DATABASE_ID,):
                return False
            granted = self.grants.get((user, place[:depth]), {}).get(permission)
            if granted is not None:
                return granted
        return False

    def require(self, user: str, permission: str, place: Place) -> None:
        """Raise unless ``user`` has ``permission`` at ``place``."""
        if not self.allows(user, permission, place):
            raise permission_denied(user, permission)

    def grant(self, user: str, place: Place, changes: Datum) -> dict[str, Datum]:
        """Set or, with null, clear permissions; return what changed as ``grant`` reports it."""
        if user == ADMIN:
            raise op_failed("The permissions of the user `admin` can't be modified.")
        if user not in self.passwords:
            raise op_failed(f"User `{user}` not found.")
        old = dict(self.grants.get((user, place), {}))
        new = dict(old)
        for name, value in changes.items():
            if name not in _PERMISSIONS or (name == "connect" and place):
                raise op_failed(f"Unexpected key(s) `{name}`.")
            if value is None:
                new.pop(name, None)
            elif isinstance(value, bool):
                new[name] = value
            else:
                raise op_failed(f"Expected a boolean or null for `{name}`, got {value}.")
        if new:
            self.grants[user, place] = new
        else:
            self.grants.pop((user, place), None)
        self._on_change()
        return {"old_val": old or None, "new_val": new or None}
