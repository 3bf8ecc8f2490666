"""Documents that RethinkDB stores and no parser takes: half a surrogate pair, 5,000 levels."""

import json
from typing import Any

import pytest
from replicator_sandbox.storage import SERVER_NAME
from rethinkdb import r

from replicator.domain.feed_element import key_reader
from replicator.domain.model import TableName
from replicator.source.driver import Payload
from tests.support.reading import RunningReader, server_of
from tests.support.servers import RethinkServer

pytestmark = pytest.mark.usefixtures("impatient")

_HALF = '"\\udc4b hello"'  # JavaScript's "👋 hello".slice(1)
_DEEP = '{"a":' * 5000 + "1" + "}" * 5000
_ODD = [
    f'{{"id":1,"x":{_HALF}}}',
    f'{{"id":2,{_HALF}:1}}',
    f'{{"id":{_HALF},"x":1}}',
    f'{{"id":3,"x":{_DEEP}}}',
    f'{{"id":[{_HALF},1],"x":{{{_HALF}:{_DEEP}}}}}',
]


@pytest.fixture
def server(rethinkdb: RethinkServer) -> RethinkServer:
    with rethinkdb.connect() as connection:
        if connection.server()["name"] == SERVER_NAME:
            pytest.skip("the embedded server does not take such documents")
    return rethinkdb


def test_they_arrive_whole_on_a_live_feed_and_in_a_snapshot(
    server: RethinkServer, name: TableName, table: Any, driver: Any
) -> None:
    documents = [*_ODD, '{"id":4,"x":"é"}']
    keys = sorted(["1", "2", _HALF, "3", f"[{_HALF},1]", "4"])
    with RunningReader(server_of(server), name) as reader:
        reader.wait_until_ready()
        done = table.insert([r.json(document) for document in documents]).run(driver)
        assert done["inserted"] == len(documents)
        live = reader.wait_for_changes(len(documents))
        assert reader.closed == []
    with RunningReader(server_of(server), name) as reader:
        reader.wait_until_ready()
        initial = reader.changes
        table.delete().run(driver)
        removed = reader.wait_for_changes(2 * len(documents))[len(documents) :]
        assert reader.closed == []
    read_key = key_reader("id")
    shown = [
        [change.new_val for change in live],
        [change.new_val for change in initial],
        [change.old_val for change in removed],
    ]
    for values in shown:
        assert sorted(bytes(value).decode() for value in values) == sorted(documents)
        assert sorted(map(read_key, values)) == keys


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b'"\xed\xb1\x8b"', '"\\udc4b"'),
        (b'"\xf0\x9f\x91\x8b\xed\xa0\xbdx\xed\xbf\xbf"', '"👋\\ud83dx\\udfff"'),
        (b'"\xff\xed\xb1"', '"\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"'),
        (b'"\xc3\xa9"', '"é"'),
    ],
)
def test_whatever_bytes_come_can_be_decoded(sent: bytes, text: str) -> None:
    decoded = Payload(sent).decode("utf-8")

    assert decoded.replace("\N{REPLACEMENT CHARACTER}" * 3, "\N{REPLACEMENT CHARACTER}" * 2) == text
    json.loads(decoded.encode())
