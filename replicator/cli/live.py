"""The facts of the running service, over HTTP."""

import json
import urllib.request
from http.client import HTTPException
from typing import Final

from replicator.cli.output import Facts
from replicator.config import HostPort

_ANSWER_SECONDS: Final = 2.0
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- read, not bound


def live_facts(listen: HostPort | None) -> Facts | None:
    """Return the facts of ``/status``; None if no replicator answers at this address."""
    if listen is None:
        return None
    address = HostPort(_ANY_ADDRESS.get(listen.host, listen.host), listen.port)
    # Without the proxy that the environment may name: the address is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{address}/status", timeout=_ANSWER_SECONDS) as answer:
            facts: Facts = json.load(answer)
        return facts if "id" in facts["outbox"] and "feeds" in facts and facts["broker"] else None
    except (OSError, HTTPException):
        return None  # nobody
    except (ValueError, TypeError, LookupError):
        return None  # not a replicator
