"""The command line as others see it: no password stays in the list of processes.

An address on the command line may have a password, and every user of a host can read the
arguments of every process. They are overwritten as soon as the program runs. Until then, and in
the shell's history, the password was to be seen: ``password_file`` is the better place for it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperGroup

from replicator.config import Settings
from replicator.log import HIDDEN, get_logger, redact_url

# typer has a copy of click of its own in some versions: this is the class that it raises.
_UsageError: Final[type[Any]] = typer.BadParameter.__mro__[1]

# Fields 48 and 49 of proc_pid_stat(5), counted from the third, which follows the name.
_ARG_START: Final = 45
_ARG_END: Final = 46
_AFTER_SCHEME: Final = re.compile(r"://.*", re.DOTALL)

_PUBLIC: Final = "guest"


class PrivateGroup(TyperGroup):
    """Commands whose messages about wrong usage repeat no address: it may have a password."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except _UsageError as err:
            err.message = _AFTER_SCHEME.sub(f"://{HIDDEN}", err.message)
            raise


def hide_passwords() -> bool:
    """Overwrite the passwords among this process's arguments; whether it was possible.

    What Python has read of them stays as it was. Safe to repeat. Only Linux has a way to do this
    without another library: elsewhere, and where ``/proc`` is closed, they stay.
    """
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
        with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            before = memory.read(end - start)
            after = mask_arguments(before)
            if after != before:
                memory.seek(start)
                memory.write(after)
    except (OSError, ValueError, IndexError):
        return False
    return True


def mask_arguments(block: bytes) -> bytes:
    """Return arguments, each ended by NUL, with stars for passwords; the length is the same."""
    return b"\0".join(_masked(argument) for argument in block.split(b"\0"))


def _masked(argument: bytes) -> bytes:
    flag, equals, value = argument.partition(b"=")
    if not (flag.startswith(b"--") and equals):
        flag, equals, value = b"", b"", argument
    text = value.decode(errors="surrogateescape")
    if redact_url(text) == text:
        return argument
    # The user and what follows the last @ may stay; what cannot be told apart may not.
    head, at, tail = value.rpartition(b"@")
    scheme, separator, userinfo = head.rpartition(b"://") if at else (b"", b"", value)
    user, colon, _ = userinfo.partition(b":")
    kept = scheme + separator + user + colon if at and colon else b""
    hidden = b"*" * (len(value) - len(kept) - len(at + tail if at else b""))
    return flag + equals + kept + hidden + (at + tail if at else b"")


def warn_of_passwords(settings: Settings, flags: Mapping[str, Any]) -> None:
    """Say once that a password came on the command line, and where it belongs."""
    urls = {
        "rethinkdb.url": settings.rethinkdb.url.password,
        "rabbitmq.url": settings.rabbitmq.url.password,
    }
    # RabbitMQ's own default is no secret.
    shown = [key for key, word in urls.items() if flags.get(key) and word and word != _PUBLIC]
    if shown:
        get_logger("settings").warning(
            "a password on the command line can be seen by other users of this host, "
            "and stays in the history of the shell",
            settings=shown,
            hint="use password_file, the environment or a settings file",
        )
