"""What the fuzzers make up: texts that are nearly right, JSON with half pairs, URLs, numbers.

FUZZ_EXAMPLES sets how many examples each test tries; without it a run stays short.
"""

import json
import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=40)  # with half pairs
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | ANY_TEXT
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)


def mutated(valid: st.SearchStrategy[str], pieces: str) -> st.SearchStrategy[str]:
    """Give texts that are nearly right: a piece cut out, doubled, or put where it does not fit."""

    def mutate(text: str, at: float, length: int, piece: str) -> str:
        start = int(at * len(text))
        return text[:start] + piece + text[start + length :]

    inserted = st.sampled_from(
        [*pieces, "", "\0", "\udc4b", "9" * 400, "9" * 5000, "é", "%", "a" * 300]
    )
    return st.builds(mutate, valid, st.floats(0, 1), st.integers(0, 3), inserted | ANY_TEXT)


def written(value: object, *, is_ascii: bool) -> str:
    """Write JSON with raw text where that has bytes, else with escapes."""
    return json.dumps(value, ensure_ascii=is_ascii, separators=(",", ":"))


ADDRESSES = st.sampled_from(["127.0.0.1:80", "[::1]:5672", "host", "a.b-c_d:65535", "0.0.0.0:0"])
URLS = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["amqp", "amqps", "rethinkdb", "AMQP", "http", ""]),
    st.sampled_from(["", "u@", "u:p@", "u:p%2F@", ":@", "u:p:q@", "%zz@"]),
    st.lists(ADDRESSES, max_size=3).map(",".join),
    st.sampled_from(["", "/", "/%2F", "/a/b", "?x=1", "#f", "/v%FF"]),
)


NUMBERS = st.from_regex(r"[0-9]{1,12}(\.[0-9]{1,6})? ?(ms|s|m|h|KiB|mb|TiB|B)?", fullmatch=True)
ANY_VALUE = JSON | st.floats() | st.binary(max_size=5) | mutated(NUMBERS, "0.-+e_smh")


OUTBOXES = st.sampled_from(["sqlite:///x.db", "sqlite+pysqlite:////tmp/x", "sqlite+aiosqlite:///x"])
