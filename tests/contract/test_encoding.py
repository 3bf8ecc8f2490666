"""The bytes of documents: content digests are made of them, so they may never vary."""

import json
import random
import struct
from typing import Any

import pytest
from rethinkdb import r
from rethinkdb.errors import ReqlQueryLogicError

from tests.contract.raw import RawConnection

_NUMBERS = {
    "1.0": "1",
    "-0.0": "-0.0",
    "0": "0",
    "1e15": "1000000000000000",
    "9007199254740992": "9007199254740992",
    "9007199254740993": "9007199254740992",
    "18014398509481984": "18014398509481985.0",
    "0.1": "0.1",
    "0.30000000000000004": "0.30000000000000007",
    "1e-6": "0.000001",
    "1e-7": "1e-7",
    "2.5e-7": "2.5e-7",
    "1e16": "10000000000000000.0",
    "123456789012345678901": "123456789012345680000.0",
    "1e21": "1e21",
    "1e300": "1e300",
    "5e-324": "5e-324",
    "1.7976931348623157e308": "1.7976931348623157e308",
    "-1234.5": "-1234.5",
}


def _echo(raw: RawConnection, text: str) -> str:
    """Return how the server writes the value that it reads as ``text``."""
    raw.send(b"[1,%b]" % text.encode())
    response = raw.read().decode()
    assert response.startswith('{"t":1,"r":['), response
    return response.removeprefix('{"t":1,"r":[').removesuffix("]}")


@pytest.mark.parametrize(("sent", "written"), _NUMBERS.items())
def test_numbers_have_one_text(raw: RawConnection, sent: str, written: str) -> None:
    assert _echo(raw, sent) == written


def test_random_doubles_read_back_the_same(raw: RawConnection) -> None:
    chance = random.Random(17)
    values = [struct.unpack("<d", chance.randbytes(8))[0] for _ in range(400)]
    values += [chance.random() for _ in range(400)]
    values = [value for value in values if value - value == 0]
    written = _echo(raw, json.dumps([2, values]))
    assert json.loads(written) == values


def test_object_keys_are_sorted_by_their_bytes(raw: RawConnection) -> None:
    sent = '{"é":1,"b":2,"B":3,"a":4,"":5,"\U0001f600":6,"\uffff":7}'
    assert _echo(raw, sent) == '{"":5,"B":3,"a":4,"b":2,"é":1,"\uffff":7,"\U0001f600":6}'


@pytest.mark.parametrize(
    ("sent", "written"),
    [
        (r'"\u0001\u001f\u007f"', '"\\u0001\\u001F\x7f"'),
        (r'"\b\f\n\r\t"', r'"\b\f\n\r\t"'),
        (r'"\"\\\/"', r'"\"\\/"'),
        (r'"\\u001f"', r'"\\u001f"'),
        (r'"\\\u001f"', r'"\\\u001F"'),
        (r'"\u2028\u00e9\ud83d\ude00"', '"\u2028é\U0001f600"'),
        (r'"a\u0000b"', r'"a\u0000b"'),
    ],
)
def test_only_what_must_be_escaped_is_escaped(raw: RawConnection, sent: str, written: str) -> None:
    assert _echo(raw, sent) == written


@pytest.mark.parametrize(
    ("zone", "seconds", "written"),
    [
        ("-05:30", "1577856600.1234567", '"epoch_time":1577856600.123,"timezone":"-05:30"'),
        ("Z", "1", '"epoch_time":1,"timezone":"+00:00"'),
        ("+01", "1.0005", '"epoch_time":1.001,"timezone":"+01:00"'),
        ("+0100", "-1.0005", '"epoch_time":-1.001,"timezone":"+01:00"'),
    ],
)
def test_times_are_kept_to_the_millisecond(
    raw: RawConnection, zone: str, seconds: str, written: str
) -> None:
    sent = f'{{"$reql_type$":"TIME","epoch_time":{seconds},"timezone":"{zone}"}}'
    assert _echo(raw, sent) == f'{{"$reql_type$":"TIME",{written}}}'


def test_dates_of_drivers_are_times(raw: RawConnection) -> None:
    assert raw.query(r.iso8601("2020-01-01T01:30:00.1239+05:30")) == (
        b'{"t":1,"r":[{"$reql_type$":"TIME","epoch_time":1577822400.124,"timezone":"+05:30"}]}'
    )


def test_binaries_are_base64_in_lines(raw: RawConnection) -> None:
    answer = raw.query(r.binary(b"x" * 100)).decode()
    data = json.loads(answer)["r"][0]["data"]
    assert [len(line) for line in data.split("\r\n")] == [76, 60]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"$reql_type$": "FOO"}, "Unknown $reql_type$ `PTYPE<FOO>`"),
        ({"$reql_type$": "TIME", "epoch_time": 1}, "no field `timezone`"),
        ({"$reql_type$": "TIME", "epoch_time": 1, "timezone": "x"}, "invalid timezone string"),
        ({"$reql_type$": "BINARY", "data": "a!"}, "Invalid base64 character found: '!'"),
        ({"$reql_type$": "BINARY"}, "lacking `data` key"),
    ],
)
def test_malformed_pseudo_types_are_refused(conn: Any, value: dict[str, Any], message: str) -> None:
    with pytest.raises(ReqlQueryLogicError) as refusal:
        r.expr(value).run(conn)
    assert message in str(refusal.value)


def _random_scalar(chance: random.Random) -> Any:
    makers = (
        lambda: chance.choice([None, True, False]),
        lambda: chance.randrange(-(2**60), 2**60),
        lambda: chance.uniform(-1, 1) * 10 ** chance.randrange(-20, 20),
        lambda: "".join(chr(chance.choice([1, 34, 92, 97, 233, 0x4E2D, 0x1F600])) for _ in "12345"),
        lambda: r.epoch_time(round(chance.uniform(0, 2e9), 4)),
        lambda: r.binary(chance.randbytes(chance.randrange(100))),
    )
    return chance.choice(makers)()


def _random_value(chance: random.Random, depth: int) -> Any:
    kind = chance.choice(["scalar", "array", "object"]) if depth else "scalar"
    if kind == "scalar":
        return _random_scalar(chance)
    count = chance.randrange(5)
    if kind == "array":
        return [_random_value(chance, depth - 1) for _ in range(count)]
    return {
        chance.choice("abcdefé") + str(number): _random_value(chance, depth - 1)
        for number in range(count)
    }


def test_a_document_has_the_same_bytes_wherever_it_appears(
    raw: RawConnection, conn: Any, table: Any
) -> None:
    chance = random.Random(4)
    live = raw.start(table.changes(), max_batch_rows=1)
    assert raw.read() == b'{"t":3,"r":[],"n":[1]}'
    for number in range(40):
        document = {"id": "x", "n": number, "value": _random_value(chance, 3)}
        table.insert(document, conflict="replace").run(conn)
    seen = b"null"
    for _ in range(40):
        raw.ask(live)
        change = raw.read()
        prefix, suffix = b'{"t":3,"r":[{"new_val":', b',"old_val":' + seen + b'}],"n":[1]}'
        assert change.startswith(prefix)
        assert change.endswith(suffix)
        seen = change[len(prefix) : -len(suffix)]
    assert raw.query(table.get("x")) == b'{"t":1,"r":[' + seen + b"]}"
    raw.start(table.changes(include_initial=True))
    assert raw.read() == b'{"t":3,"r":[{"new_val":' + seen + b'}],"n":[1]}'
