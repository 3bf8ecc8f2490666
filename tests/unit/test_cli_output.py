"""How values are written for programs."""

from replicator.cli.output import to_json


def test_values_that_json_does_not_know_are_written_anyway() -> None:
    assert to_json({"raw": b"\x00\xff", "other": {1}}) == b'{"raw":"AP8=","other":[1]}'
