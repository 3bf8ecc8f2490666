"""Facts and counters of the running service, over HTTP; None when it does not answer."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from replicator.cli.output import Facts
from replicator.config import HostPort

_ANSWER_SECONDS: Final = 2.0
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- read, not bound


def live_facts(listen: HostPort | None) -> Facts | None:
    """Return the facts of ``/status``; None if no replicator answers at this address."""
    try:
        facts = json.loads(_asked(listen, "status") or b"null")
    except ValueError:
        return None
    is_ours = isinstance(facts, dict) and isinstance(facts.get("outbox"), dict)
    return facts if is_ours and "id" in facts["outbox"] and "feeds" in facts else None


def live_counts(listen: HostPort | None, counter: str) -> Mapping[str, float] | None:
    """Return the value of a counter with the label ``table``, by table.

    None if nothing answers at this address, or the answer is not metrics.
    """
    text = _asked(listen, "metrics")
    if text is None:
        return None
    found: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families(text.decode("utf-8", "replace")):
            for sample in family.samples:
                if sample.name == counter:
                    table = sample.labels.get("table", "")
                    found[table] = found.get(table, 0.0) + sample.value
    except ValueError:
        return None
    return found


def _asked(listen: HostPort | None, path: str) -> bytes | None:
    if listen is None:
        return None
    address = HostPort(_ANY_ADDRESS.get(listen.host, listen.host), listen.port)
    # Without the proxy that the environment may name: the address is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{address}/{path}", timeout=_ANSWER_SECONDS) as answer:
            return bytes(answer.read())
    except (OSError, HTTPException):
        return None
