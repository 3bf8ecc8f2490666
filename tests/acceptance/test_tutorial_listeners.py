"""The tutorial's listeners receive what they expect: in Python, and its JavaScript twin."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r

from tests.support.npm import npm_directory
from tests.support.replicator import ReplicatorProcess

_AMQPLIB = "2.3.1"

# As in the tutorial, but for Python 3's print, and for ending after so many messages.
_PYTHON_LISTENER = """
import json, sys
import pika

url, count = sys.argv[1], int(sys.argv[2])
rabbit_conn = pika.BlockingConnection(pika.URLParameters(url))
channel = rabbit_conn.channel()
channel.exchange_declare('rethinkdb', exchange_type='topic', durable=False)
queue = channel.queue_declare('', exclusive=True).method.queue
channel.queue_bind(queue, exchange='rethinkdb', routing_key='mytable.*')
print('listening', flush=True)
for method, properties, payload in channel.consume(queue):
    change = json.loads(payload)
    tablename, change_type = method.routing_key.split('.')
    print(json.dumps([tablename, change_type, change]), flush=True)
    count -= 1
    if not count:
        break
channel.cancel()
rabbit_conn.close()
"""

_JAVASCRIPT_LISTENER = """
const amqp = require('amqplib');
const [url, wanted] = process.argv.slice(2);
(async () => {
  let count = Number(wanted);
  const conn = await amqp.connect(url);
  const channel = await conn.createChannel();
  await channel.assertExchange('rethinkdb', 'topic', {durable: false});
  const {queue} = await channel.assertQueue('', {exclusive: true});
  await channel.bindQueue(queue, 'rethinkdb', 'mytable.*');
  await channel.consume(queue, async (msg) => {
    const [tablename, changeType] = msg.fields.routingKey.split('.');
    const change = JSON.parse(msg.content.toString());
    console.log(JSON.stringify([tablename, changeType, change]));
    channel.ack(msg);
    count -= 1;
    if (count === 0) await conn.close();
  });
  console.log('listening');
})().catch((err) => { console.error(err); process.exit(1); });
"""

_EXPECTED = [
    ["mytable", "create", {"old_val": None, "new_val": {"id": 1, "name": "a"}}],
    [
        "mytable",
        "update",
        {"old_val": {"id": 1, "name": "a"}, "new_val": {"id": 1, "name": "b"}},
    ],
    ["mytable", "delete", {"old_val": {"id": 1, "name": "b"}, "new_val": None}],
]


def listen(
    command: list[str], replicator: ReplicatorProcess, connection: Any, database: str
) -> list[Any]:
    """Start a listener, make the three kinds of changes, and return what it printed."""
    replicator.settings["RABBITMQ__EXCHANGE_DURABLE"] = "false"
    replicator.start_and_wait()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
        try:
            assert listener.stdout is not None
            assert listener.stdout.readline().strip() == "listening"
            table = r.db(database).table("mytable")
            table.insert({"id": 1, "name": "a"}).run(connection)
            table.get(1).update({"name": "b"}).run(connection)
            table.get(1).delete().run(connection)
            lines = [json.loads(listener.stdout.readline()) for _ in _EXPECTED]
            assert listener.wait(20) == 0
        finally:
            listener.kill()
    return lines


def test_the_tutorials_python_listener_receives_creates_updates_and_deletes(
    replicator: ReplicatorProcess, vhost: str, connection: Any, database: str, tmp_path: Path
) -> None:
    script = tmp_path / "listener.py"
    script.write_text(_PYTHON_LISTENER)
    command = [sys.executable, str(script), vhost, "3"]
    assert listen(command, replicator, connection, database) == _EXPECTED


def test_the_tutorials_javascript_listener_receives_creates_updates_and_deletes(
    replicator: ReplicatorProcess, vhost: str, connection: Any, database: str
) -> None:
    directory = npm_directory("amqplib", _AMQPLIB)
    script = directory / "listener.js"
    script.write_text(_JAVASCRIPT_LISTENER)
    assert listen(["node", str(script), vhost, "3"], replicator, connection, database) == _EXPECTED


@pytest.mark.parametrize("count", [2])
def test_listen_prints_messages_and_ends_after_the_count(
    count: int, replicator: ReplicatorProcess, connection: Any, database: str
) -> None:
    replicator.start_and_wait()
    with subprocess.Popen(
        [sys.executable, "-m", "replicator", "listen", "--json", "--count", str(count)],
        env=replicator.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as listener:
        try:
            assert listener.stdout is not None
            assert listener.stderr is not None
            listener.stderr.readline()
            table = r.db(database).table("mytable")
            table.insert({"id": 1}).run(connection)
            table.get(1).delete().run(connection)
            lines = [json.loads(listener.stdout.readline()) for _ in range(count)]
            assert listener.wait(20) == 0
        finally:
            listener.kill()
    assert [line["routing_key"] for line in lines] == ["mytable.create", "mytable.delete"]
