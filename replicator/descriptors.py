"""How many files and connections the system lets this process have open: a table takes one.

Some are kept in reserve for the HTTP server: without an answer to its probe, a service that has
run out of them would be ended and started again, for ever.
"""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

RESERVE: Final = 8
_UNLIMITED: Final = 65_536  # where the system sets no limit, it takes no limit either


def raise_limit() -> None:
    """Raise the limit to the highest that this process may have, except for the reserve.

    Safe to repeat.
    """
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(1, _highest() - RESERVE), _hard()))


@contextmanager
def reserve() -> Iterator[None]:
    """Let the block open what the reserve is for; what it opened stays open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_highest(), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def with_exhaustion(hint: str | None, message: str) -> str | None:
    """Return the hint of an error, and what to do if this process has too much open.

    Most errors of that say so in their messages. SQLite, and whoever looks up the name of a host,
    do not: then both hints are given.
    """
    is_named = os.strerror(errno.EMFILE) in message
    if not is_named and not _is_exhausted():
        return hint
    advice = (
        f"this process may have {_highest()} files and connections open, and each table takes one: "
        "raise the limit (ulimit -n, LimitNOFILE of systemd), or replicate fewer tables"
    )
    return advice if is_named or hint is None else f"{hint}; {advice}"


def _hard() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def _highest() -> int:
    hard = _hard()
    return _UNLIMITED if hard == resource.RLIM_INFINITY else hard


def _is_exhausted() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as err:
        return err.errno == errno.EMFILE
    return False
