"""The HTTP server with a service that is made up, on a port of its own."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from replicator.web.server import WebServer
from tests.support.observed import FakeService

PATIENCE = 30


@contextmanager
def serving(service: FakeService) -> Iterator[WebServer]:
    """Serve until the end of the block; nothing of it is left then."""
    web = WebServer("127.0.0.1", 0, service)
    thread = threading.Thread(target=web.run, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.shut_down()
        thread.join(PATIENCE)
    assert not thread.is_alive()
    assert not web.connections
