"""Odd documents through the whole service: what RethinkDB shows is what a queue gets.

Every value and key that the server takes, names of any spelling, sizes at their limits. The
truth is asked of the server as bytes, and each message must hold exactly those. Half a surrogate
pair has no bytes in UTF-8: there the truth is JSON's escape of it. Single elements of a feed are
in tests/integration/test_source_odd_documents.py.
"""

import json
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from replicator_sandbox import EmbeddedRethinkDB
from replicator_sandbox.storage import SERVER_NAME
from rethinkdb import r
from rethinkdb.ast import ReQLEncoder

from tests.contract.raw import RawConnection
from tests.support.consumer import Consumer, Message
from tests.support.replicator import ReplicatorProcess
from tests.support.servers import RethinkServer

_HALF = '"\\udc4b hello"'  # JavaScript's "👋 hello".slice(1)
_FIRST_HALF = '"hello \\ud83d"'  # the server takes it as bytes, and not as JSON's escape
_ZONE = "+05:30"


class Document(NamedTuple):
    """A document of a table, as JSON text, so that nothing on the way rounds or escapes it."""

    key: str
    rest: str = ""
    primary_key: str = '"id"'
    table: str = "mytable"

    @property
    def text(self) -> str:
        return f"{{{self.primary_key}:{self.key}{',' if self.rest else ''}{self.rest}}}"


def time_at(epoch: str, zone: str) -> str:
    return f'{{"$reql_type$":"TIME","epoch_time":{epoch},"timezone":"{zone}"}}'


def binary(data: str) -> str:
    return f'{{"$reql_type$":"BINARY","data":"{data}"}}'


def point(longitude: float, latitude: float) -> str:
    place = f"[{longitude},{latitude}]"
    return f'{{"$reql_type$":"GEOMETRY","type":"Point","coordinates":{place}}}'


_RING = "[[0,0],[0,1],[1,1],[0,0]]"
_VALUES = {
    "null": "null",
    "true": "true",
    "false": "false",
    "zero": "[0,-0.0]",
    "numbers": "[1e308,-1.7976931348623157e308,5e-324,1e-7,0.1]",
    "integers": "[9007199254740993,-18014398509481984,123456789012345678901]",
    "strings": '["","\\u0000\\u0001\\u001f\\u007f","\\"\\\\/","\\u2028\\ufffe","é👋","\\n\\t"]',
    "binaries": f"[{binary('')},{binary('AP8=')}]",
    "times": f"[{time_at('-1.5', '-12:00')},{time_at('253402300799.999', _ZONE)}]",
    "point": point(-122.5, 37.75),
    "line": '{"$reql_type$":"GEOMETRY","type":"LineString","coordinates":[[0,0],[1,1.5]]}',
    "area": f'{{"$reql_type$":"GEOMETRY","type":"Polygon","coordinates":[{_RING}]}}',
    "arrays": "[[],[[]],[[1,[null]],{}]]",
    "objects": '{"":{"":{}},"__proto__":{"constructor":1},"old_val":1,"\\"":2,"\\\\":3,"$x":4}',
}
_KEYS = [
    '""',
    '"' + "x" * 127 + '"',
    '"' + "é" * 63 + 'x"',
    '"' + "👋" * 31 + 'éx"',
    '"\\u0001\\u001f\\u007f\\u2028\\ufffe"',
    '"a\\"b\\\\c/[{,:"',
    '"-0.0"',
    "-0.0",
    "-0.5",
    "1e308",
    "-1.7976931348623157e308",
    "5e-324",
    "9007199254740992",
    "9007199254740994",
    "-18446744073709551616",
    "true",
    "false",
    binary(""),
    binary("AP8="),
    time_at("0", "+00:00"),
    time_at("1577836800.123", _ZONE),
    time_at("-62135596800", "Z"),
    "[]",
    "[[]]",
    '[1,[2,["x",[true,[false]]]]]',
    f"[{time_at('7', _ZONE)},-0.0,{binary('AP8=')}]",
]
_HALVES = [_HALF, _FIRST_HALF, f"[{_HALF},[{_FIRST_HALF}]]", '"\\udc4b\\udc4b\\ud83d"']
_NAMES = ["a b", "q\"uo'te`", "do.t[0]", "👋é", "__proto__", "", "id\0\x1f\x7f", "b\\s", "{table}"]
_NAMES += ["new_val", "constructor", "x" * 1000, '"quoted"']
_HALF_NAMES = [_HALF, _FIRST_HALF, '"\\"\\udc4b\\\\"']


def literal(text: str) -> Any:
    """Return JSON as a term: parsed by the server where it can."""
    return r.expr(json.loads(text)) if "\\ud83d" in text else r.json(text)


def shown(sent: bytes) -> bytes:
    """Return the server's bytes as JSON in UTF-8: halves of surrogate pairs as their escapes."""
    text = sent.decode("utf-8", "surrogatepass")
    return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text).encode()


class RawConsumer(Consumer):
    """Keeps messages unread: Python's parser does not take all of these documents."""

    def _identity(self, message: Message) -> tuple[str, str]:
        return message.table, str(message.entry)


class Scene:
    """A replicator between one RethinkDB and one virtual host, and what it must publish."""

    def __init__(self, raw: RawConnection, process: ReplicatorProcess, vhost: str) -> None:
        self.raw = raw
        self.process = process
        self.vhost = vhost
        self.is_real = self.query(r.db("rethinkdb").table("server_config").nth(0)["name"]) != (
            json.dumps(SERVER_NAME).encode()
        )
        self.database = f"d{uuid.uuid4().hex}" + "D" * 1000  # RethinkDB sets no limit to names

    def answer(self, term: Any) -> bytes:
        """Return the response to a query, whatever it says."""
        text = f"[1,{ReQLEncoder().encode(term)},{{}}]"
        self.raw.send(text.encode("utf-8", "surrogatepass"))
        return self.raw.read(30)

    def query(self, term: Any) -> bytes:
        """Return the only result of a query, as JSON."""
        answer = shown(self.answer(term))
        start = b'{"t":1,"r":['
        assert answer.startswith(start), answer[:500]
        return answer[len(start) :].removesuffix(b"]}")

    def make(self, table: str, primary_key: str = '"id"') -> None:
        made = r.db(self.database).table_create(table, primary_key=literal(primary_key))
        self.query(made)
        self.query(r.db(self.database).table(table).wait())

    def table(self, document: Document) -> Any:
        return r.db(self.database).table(document.table)

    def get(self, document: Document) -> Any:
        return self.table(document).get(literal(document.key))

    def insert(self, document: Document) -> None:
        answer = json.loads(self.query(self.table(document).insert(literal(document.text))))
        assert answer["inserted"] == 1, (document.text[:200], answer)

    def update(self, document: Document) -> None:
        answer = json.loads(self.query(self.get(document).update({"changed": "é"})))
        assert answer["replaced"] == 1, answer

    def delete(self, document: Document) -> None:
        answer = json.loads(self.query(self.get(document).delete()))
        assert answer["deleted"] == 1, answer

    def truth(self, documents: Sequence[Document]) -> list[bytes]:
        return [self.query(self.get(document)) for document in documents]

    def restart(self) -> None:
        assert self.process.terminate() == 0, self.process.log()
        self.process.start_and_wait()

    def captured(self) -> float:
        return self.process.metric("replicator_changes_captured_total")


def expect(consumer: Consumer, start: int, wanted: Sequence[tuple[str, bytes, bytes]]) -> None:
    """Wait for one message for each of these, after the first ``start``: op, old and new value."""
    came = consumer.wait_for_count(start + len(wanted), 60)[start:]
    bodies = [(op, b'{"old_val":%b,"new_val":%b}' % (old, new)) for op, old, new in wanted]
    missing = Counter(bodies) - Counter((message.op, message.body) for message in came)
    assert not missing, f"missing: {[(op, body[:300]) for op, body in missing]}"
    assert len(came) == len(wanted)


def replicate(scene: Scene, documents: Sequence[Document]) -> None:
    """Take documents through their lives: snapshot, live, restart, changed and deleted unseen."""
    process = scene.process
    tables = dict.fromkeys(f"{scene.database}.{document.table}" for document in documents)
    process.settings["TABLES"] = ",".join(tables)
    with RawConsumer(scene.vhost) as consumer:
        for document in documents[::2]:
            scene.insert(document)
        process.start_and_wait()
        for document in documents[1::2]:
            scene.insert(document)
        created = scene.truth(documents)
        expect(consumer, 0, [("create", b"null", new) for new in created])
        for document in documents:
            scene.update(document)
        updated = scene.truth(documents)
        changes = zip(created, updated, strict=True)
        expect(consumer, len(documents), [("update", old, new) for old, new in changes])

        scene.restart()
        assert scene.captured() == 0, "an unchanged table was published again"

        assert process.terminate() == 0
        unseen, seen = documents[::2], documents[1::2]
        for document in unseen:
            scene.delete(document)
        process.start_and_wait()
        for document in seen:
            scene.delete(document)
        came = consumer.wait_for_count(3 * len(documents), 60)[2 * len(documents) :]
        assert len(came) == len(documents)
        is_live = {message.entry: message.origin == "feed" for message in came}
        bodies = Counter(message.body for message in came if is_live[message.entry])
        live = [b'{"old_val":%b,"new_val":null}' % old for old in updated[1::2]]
        assert bodies == Counter(live)
        found = [message.old_val for message in came if not is_live[message.entry]]
        for document in unseen:
            # Times that are the same instant are the same key, which the index has in one zone.
            key = json.loads(document.key.replace(_ZONE, "+00:00").replace('"Z"', '"+00:00"'))
            found.remove({json.loads(document.primary_key): key})
        assert found == []
        assert process.terminate() == 0
    assert "Traceback" not in process.log()


@pytest.fixture(scope="module")
def embedded() -> Iterator[RethinkServer]:
    with EmbeddedRethinkDB() as server:
        yield RethinkServer(server.url)


@pytest.fixture(params=["embedded", "real"])
def scene(request: pytest.FixtureRequest, vhost: str, tmp_path: Path) -> Iterator[Scene]:
    name = "embedded" if request.param == "embedded" else "rethinkdb"
    server: RethinkServer = request.getfixturevalue(name)
    settings = {"RETHINKDB__URL": server.url, "RABBITMQ__URL": vhost}
    process = ReplicatorProcess(tmp_path, settings)
    with RawConnection(server.host, server.port, "admin", "") as raw:
        made = Scene(raw, process, vhost)
        if request.param == "real" and not made.is_real:
            pytest.skip("no real server: set RETHINKDB_URL or put `rethinkdb` on PATH")
        made.query(r.db_create(made.database))
        yield made
        process.close()
        made.query(r.db_drop(made.database))


def of_every_type() -> list[Document]:
    rest = ",".join(f'"{name}":{value}' for name, value in _VALUES.items())
    documents = [Document('"every type"', rest)]
    documents += [Document(f'"{name}"', f'"x":{value}') for name, value in _VALUES.items()]
    return documents + [Document(key, f'"x":{n}') for n, key in enumerate(_KEYS)]


def of_limits(*, large_bytes: int) -> list[Document]:
    fields = ",".join(f'"field {n}":{n}' for n in range(50_000))
    many = ",".join(["1e-7"] * 90_000)  # the server's limit for an array is 100,000
    return [
        Document('"large"', f'"x":"{"x" * large_bytes}"'),
        Document('"large too"', f'"x":["{"é" * (large_bytes // 2)}",{many}]'),
        Document('"fields"', fields),
        Document('"little"', '"x":1'),
    ]


def of_half_pairs_and_depth() -> list[Document]:
    documents = [Document(key, f'"x":{key},{_HALF}:{{{_FIRST_HALF}:{key}}}') for key in _HALVES]
    for depth in (1100, 9000):
        objects, arrays = '{"a":' * depth + "1" + "}" * depth, "[" * depth + "]" * depth
        documents.append(Document(str(depth), f'"x":{objects},"y":{arrays}'))
    return documents


def test_documents_of_every_type_size_and_depth_arrive_as_they_are(scene: Scene) -> None:
    scene.make("mytable")
    # With `.update` behind it this is AMQP's longest routing key.
    longest = "T" * 248
    scene.make(longest)
    documents = [Document(str(n), f'"x":{n}', table=longest) for n in range(4)]
    documents += of_every_type()
    # The embedded server refuses half pairs and depth, and is slow with 15 MB.
    documents += of_limits(large_bytes=15_000_000 if scene.is_real else 1_000_000)
    documents += of_half_pairs_and_depth() if scene.is_real else []

    replicate(scene, documents)


def test_primary_keys_of_any_name_are_found(scene: Scene) -> None:
    names = [json.dumps(name) for name in _NAMES] + (_HALF_NAMES if scene.is_real else [])
    documents: list[Document] = []
    for number, name in enumerate(names):
        table = f"table{number}"
        scene.make(table, name)
        documents += [
            Document(key, '"x":"é"', primary_key=name, table=table)
            for key in ('"first"', "2", '["3"]', '"fourth"')
        ]

    replicate(scene, documents)


def test_a_field_rule_works_with_a_primary_key_of_half_a_surrogate_pair(scene: Scene) -> None:
    if not scene.is_real:
        pytest.skip("the embedded server does not take such names")
    scene.make("mytable", _HALF)
    settings = scene.process.settings
    config = scene.process.outbox.with_name("replicator.toml")
    name = f"{scene.database}.mytable"
    config.write_text(f'[[tables]]\nname = "{name}"\ninclude_fields = ["seen"]\n')
    settings |= {"CONFIG": str(config)}
    with RawConsumer(scene.vhost) as consumer:
        scene.process.start_and_wait()
        scene.insert(Document("1", '"seen":2,"unseen":3', primary_key=_HALF))
        (message,) = consumer.wait_for_count(1)
        assert message.body == f'{{"old_val":null,"new_val":{{"seen":2,{_HALF}:1}}}}'.encode()
        checked = scene.process.run("check", "--json")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "\\\\udc4b hello" in checked.stdout


def test_what_the_server_refuses_as_a_key_never_becomes_a_document(scene: Scene) -> None:
    scene.make("mytable")
    refused = ["null", "{}", "[null]", "[{}]", point(1, 2), '"a\\u0000b"', '["\\u0000"]']
    refused += ['"' + "x" * 128 + '"', '"' + "é" * 64 + '"']
    for key in refused:
        document = Document(key)
        answer = json.loads(scene.query(scene.table(document).insert(r.json(document.text))))
        assert (answer["inserted"], answer["errors"]) == (0, 1), key


def test_documents_that_are_themselves_pseudo_types_arrive(scene: Scene) -> None:
    scene.make("mytable", '"$reql_type$"')
    shape = {"primary_key": '"$reql_type$"'}
    documents = [
        Document('"TIME"', '"epoch_time":1,"timezone":"+00:00"', **shape),
        Document('"GEOMETRY"', '"coordinates":[1,2],"type":"Point"', **shape),
    ]
    scene.process.settings["TABLES"] = f"{scene.database}.mytable"
    with RawConsumer(scene.vhost) as consumer:
        scene.insert(documents[0])
        scene.process.start_and_wait()
        scene.insert(documents[1])
        truth = scene.truth(documents)
        expect(consumer, 0, [("create", b"null", new) for new in truth])
        for document in documents:
            scene.delete(document)
        expect(consumer, 2, [("delete", old, b"null") for old in truth])
