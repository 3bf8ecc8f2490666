"""What this machine offers: RabbitMQ's program, and free loopback ports."""

import contextlib
import secrets
import shutil
import socket
from pathlib import Path

_SCRIPTS = (
    "/usr/lib/rabbitmq/bin",  # Debian, Ubuntu, Fedora
    "/opt/rabbitmq/sbin",  # the official container image
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
)


def find_rabbitmq() -> Path | None:
    """Return the server's own start script, not a package's wrapper that changes the user."""
    on_path = shutil.which("rabbitmq-server")
    places = [Path(place) for place in _SCRIPTS]
    if on_path is not None:
        places.append(Path(on_path).resolve().parent)
    for place in places:
        # All of the server's own scripts include this file; it is not beside a package's wrapper.
        if (place / "rabbitmq-server").exists() and (place / "rabbitmq-env").exists():
            return place / "rabbitmq-server"
    return None


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
