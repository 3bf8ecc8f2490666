"""How values are written for programs and for people."""

import json

import msgspec
import pytest

from replicator.cli import output
from replicator.cli.output import raw_or_text, to_json


def test_values_that_json_does_not_know_are_written_anyway() -> None:
    assert to_json({"raw": b"\x00\xff", "other": {1}}) == b'{"raw":"AP8=","other":[1]}'


def deep(inner: bytes) -> bytes:
    return b'{"a":' * 5000 + inner + b"}" * 5000


@pytest.mark.parametrize(
    "body",
    [
        b"NaN",
        b'{"a":-Infinity}',
        deep(b"NaN"),
        deep(b"[Infinity]"),
        deep(b'"\x01"'),
        deep(b"01"),
        b"\xef\xbb\xbf{}",
        b'"\xff"',
        b"\x1b[2J",
        b"",
    ],
)
def test_a_body_that_is_not_json_is_text_in_json(body: bytes) -> None:
    assert json.loads(to_json({"body": raw_or_text(body)}))["body"] == body.decode(errors="replace")


@pytest.mark.parametrize("inner", [b"1", b'"\\u00fc\\n"', b"[true, null, -1.5e-7, {}]", b"1e400"])
def test_a_body_that_is_json_stays_as_it_is(inner: bytes) -> None:
    for body in (inner, deep(inner)):
        assert raw_or_text(body) == msgspec.Raw(body)


def test_a_terminal_gets_json_that_does_not_steer_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    value = {"body": msgspec.Raw('"\x7f\x9b2J\u202e"'.encode()), "key": "\x1b\n"}

    output.print_line(value)

    said = capsys.readouterr().out
    assert said == '{"body":"\\u007f\\u009b2J\\u202e","key":"\\u001b\\n"}\n'
