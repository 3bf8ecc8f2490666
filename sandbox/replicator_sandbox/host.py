"""What this machine offers: RabbitMQ's programs, and free loopback ports."""

import contextlib
import os
import secrets
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from replicator.errors import ServerMissing

HOME = "RABBITMQ_HOME"
"""The environment variable that names the RabbitMQ to run."""

_SCRIPTS = (
    "/usr/lib/rabbitmq/bin",  # Debian, Ubuntu, Fedora
    "/opt/rabbitmq/sbin",  # the official container image
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
)


@dataclass(frozen=True, slots=True)
class RabbitMQPrograms:
    """Where the programs of one RabbitMQ are, and its Erlang's."""

    scripts: Path
    """The directory of the server's own scripts: a package's wrappers change the user."""

    erlang: Path | None = None
    """The directory of ``erl`` and ``epmd``; None: they are on PATH."""

    within: tuple[str, ...] = ()
    """The command that runs another one within its tree; empty: it is installed here."""

    def script(self, name: str) -> list[str]:
        """Return the command that runs a script of the server."""
        return [*self.within, str(self.scripts / name)]

    def of_erlang(self, name: str) -> list[str]:
        """Return the command that runs a program of its Erlang."""
        return [*self.within, str(self.erlang / name) if self.erlang else name]


def find_rabbitmq() -> RabbitMQPrograms | None:
    """Return the RabbitMQ that RABBITMQ_HOME names, or the one that is installed here.

    RABBITMQ_HOME is a directory with ``sbin/rabbitmq-server`` (a generic release) or
    ``bin/rabbitmq-server``, or a Debian's root directory (`tools/rabbitmq4.sh` makes one).

    Raises:
        ServerMissing: RABBITMQ_HOME is set, and there is no RabbitMQ that can be run.
    """
    if home := os.environ.get(HOME):
        return _at_home(Path(home).absolute())
    on_path = shutil.which("rabbitmq-server")
    places = [Path(place) for place in _SCRIPTS]
    if on_path is not None:
        places.append(Path(on_path).resolve().parent)
    if shutil.which("erl") and shutil.which("epmd"):
        for place in places:
            if _has_scripts(place):
                return RabbitMQPrograms(place)
    return None


def _at_home(home: Path) -> RabbitMQPrograms:
    for place in (home / "sbin", home / "bin"):
        if _has_scripts(place):
            return RabbitMQPrograms(place)
    if _has_scripts(home / "usr/lib/rabbitmq/bin") and shutil.which("unshare"):
        # Its /usr becomes this machine's, for this one process and its children: its programs
        # have the libraries that they were built for, and everything else stays where it is. The
        # mount ends with them, and it is not in the tree: nothing can be left behind.
        return RabbitMQPrograms(
            Path("/usr/lib/rabbitmq/bin"),
            Path("/usr/bin"),
            (
                *("unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])),
                *("sh", "-c", 'mount --bind "$0" /usr && exec "$@"', str(home / "usr")),
            ),
        )
    raise ServerMissing(
        f"{HOME}={home}: there is no RabbitMQ that can be run",
        hint="name a directory that has sbin/rabbitmq-server, or (on Linux) a Debian's root",
    )


def _has_scripts(place: Path) -> bool:
    # All of the server's own scripts include the second; it is not beside a package's wrapper.
    return (place / "rabbitmq-server").exists() and (place / "rabbitmq-env").exists()


def free_port() -> int:
    """Return a free loopback port.

    It is below the range of outgoing connections' ports: a server that is stopped and started again
    must find its port still free.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def accepts(port: int) -> bool:
    """Return whether something accepts connections on a loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
