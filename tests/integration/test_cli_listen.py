"""The tutorial's listener against a real broker."""

import json
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pika
import pytest

from tests.support.wait import wait_until


@pytest.fixture
def channel(vhost: str) -> Iterator[Any]:
    with pika.BlockingConnection(pika.URLParameters(vhost)) as connection:
        yield connection.channel()


@contextmanager
def listening(vhost: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``replicator listen`` and yield it once its queue is bound."""
    with subprocess.Popen(
        [sys.executable, "-m", "replicator", "listen", "--rabbitmq", vhost, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line.startswith("listening on exchange"), line
            yield process
        finally:
            process.kill()


def publish(channel: Any, key: str, body: str, **properties: Any) -> None:
    channel.basic_publish("rethinkdb", key, body.encode(), pika.BasicProperties(**properties))


def test_each_message_is_one_line_for_programs(vhost: str, channel: Any) -> None:
    with listening(vhost, "--json", "--binding", "mytable.*", "--count", "2") as process:
        publish(channel, "other.create", "{}")
        publish(
            channel,
            "mytable.create",
            f'{{"old_val": null, "new_val": {{"id": 1, "big": {2**70}}}}}',
            message_id="abcdefgh-7",
            type="create",
            timestamp=1_700_000_000,
            headers={"x-replicator-origin": "snapshot", "raw": b"\xff"},
        )
        publish(channel, "mytable.x", "no JSON")
        out, err = process.communicate(timeout=20)

    assert (process.returncode, err) == (0, "")
    first, second = map(json.loads, out.splitlines())
    assert first == {
        "routing_key": "mytable.create",
        "message_id": "abcdefgh-7",
        "type": "create",
        "timestamp": "2023-11-14T22:13:20.000Z",
        "headers": {"x-replicator-origin": "snapshot", "raw": "/w=="},
        "body": {"old_val": None, "new_val": {"id": 1, "big": 2**70}},
    }
    assert (second["body"], second["message_id"], second["headers"]) == ("no JSON", None, {})


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_document_that_no_parser_takes_is_shown(
    vhost: str, channel: Any, form: list[str]
) -> None:
    half = '{"old_val":null,"new_val":{"id":"\\udc4b hello"}}'
    deep = '{"a":' * 5000 + "1" + "}" * 5000
    with listening(vhost, *form, "--count", "3") as process:
        for body in (half, deep, "{}"):
            publish(channel, "mytable.create", body)
        out, err = process.communicate(timeout=20)

    assert (process.returncode, err) == (0, "")
    assert half in out
    assert deep in out


def test_people_see_what_happened_and_the_document(vhost: str, channel: Any) -> None:
    with listening(vhost, "--count", "1") as process:
        publish(
            channel,
            "t.delete",
            '{"old_val":{"id":1},"new_val":null}',
            type="delete",
            message_id="abcdefgh-9",
        )
        out, _ = process.communicate(timeout=20)

    first, *body = out.splitlines()
    assert first.startswith("t.delete  delete  from feed  abcdefgh-9")
    assert json.loads("\n".join(body))["old_val"] == {"id": 1}


class Encoded(bytes):
    """A value of a header as it goes over the wire, with its type."""


@pytest.fixture
def _any_header(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = pika.data.encode_value

    def encode_any(pieces: list[bytes], value: Any) -> int:
        if isinstance(value, Encoded):
            pieces.append(value)
            return len(value)
        return encode(pieces, value)

    monkeypatch.setattr(pika.data, "encode_value", encode_any)


# Without NaN and infinity: RabbitMQ closes the connection of who publishes those in a header.
STRANGE = {
    "late": Encoded(b"T" + struct.pack(">Q", 1_700_000_000_123)),
    "latest": Encoded(b"T" + b"\xff" * 8),
    "time": Encoded(b"T" + struct.pack(">Q", 1_700_000_000)),
    "half": Encoded(b"d" + struct.pack(">d", 0.5)),
    "quarter": Encoded(b"f" + struct.pack(">f", 0.25)),
    "tiny": Encoded(b"D\xff" + struct.pack(">i", -7)),
    "small": Encoded(b"B\xff"),
    "bytes": Encoded(b"x" + struct.pack(">I", 2) + b"\x1b\xff"),
    "nested": {"list": [1, None, {"deep": "\x9b"}], "times": [Encoded(b"T" + b"\x7f" * 8)]},
    "text": Encoded(b"S" + struct.pack(">I", 1) + b"\xff"),
}


@pytest.mark.usefixtures("_any_header")
@pytest.mark.parametrize("sent_at", [1_700_000_000_123, 2**64 - 1, 0])
def test_a_message_of_a_stranger_is_shown_whatever_is_in_it(
    vhost: str, channel: Any, sent_at: int
) -> None:
    with listening(vhost, "--json", "--count", "2") as process:
        publish(channel, "t.\x1b[2J", "NaN", timestamp=sent_at, headers=STRANGE)
        publish(channel, "t.next", "{}")
        out, err = process.communicate(timeout=60)

    assert (process.returncode, err) == (0, "")
    first, second = map(json.loads, out.splitlines())
    assert first["timestamp"] == (sent_at or "1970-01-01T00:00:00.000Z")
    assert first["body"] == "NaN"
    assert first["headers"] == {
        "late": 1_700_000_000_123,
        "latest": 2**64 - 1,
        "time": "2023-11-14T22:13:20Z",
        "half": 0.5,
        "quarter": 0.25,
        "tiny": "-7E-255",
        "small": 255,
        "bytes": "G/8=",
        "nested": {"list": [1, None, {"deep": "\x9b"}], "times": [0x7F7F7F7F7F7F7F7F]},
        "text": "/w==",
    }
    assert second["routing_key"] == "t.next"


@pytest.mark.usefixtures("_any_header")
def test_a_message_of_a_stranger_does_not_steer_the_terminal(vhost: str, channel: Any) -> None:
    evil = "\x1b]0;x\x07\r\n\x9b2J\u202e"
    with listening(vhost, "--count", "1") as process:
        publish(
            channel,
            f"t.{evil}",
            f'{{"a":\n "\x9b2J\u202e"}} {evil}',
            type=evil,
            message_id=evil,
            timestamp=1_700_000_000_123,
            headers={"x-replicator-origin": evil},
        )
        out, err = process.communicate(timeout=60)

    assert (process.returncode, err) == (0, "")
    head, *_ = out.splitlines()
    assert head.count(r"\u001b]0;x\u0007\u000d\u000a\u009b2J\u202e") == 4
    assert head.rstrip().endswith("1700000000123")
    assert not set(out) & set("\x1b\x07\r\x9b\u202e")


def test_an_exchange_of_another_kind_is_listened_to_as_it_is(vhost: str, channel: Any) -> None:
    channel.exchange_declare("rethinkdb", "fanout", durable=False)
    with listening(vhost, "--json", "--count", "1") as process:
        publish(channel, "", "{}")
        out, _ = process.communicate(timeout=20)

    assert json.loads(out)["routing_key"] == ""


def test_it_leaves_no_queue_behind_and_ctrl_c_is_quiet(vhost: str, channel: Any) -> None:
    with listening(vhost) as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)

    assert (process.returncode, out, err) == (130, "", "")
    wait_until(lambda: channel.exchange_delete("rethinkdb", if_unused=True), 5)


def test_a_reader_that_goes_away_ends_it_quietly(vhost: str, channel: Any) -> None:
    with listening(vhost, "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        publish(channel, "t.create", "{}")
        publish(channel, "t.create", "{}")
        assert process.wait(20) == 1
        assert process.stderr.read() == ""
