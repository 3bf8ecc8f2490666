"""RethinkDB's own RabbitMQ tutorial, ported to Python 3 without other changes.

It promises nothing: no confirms, transient messages, no recovery.
Usage: tutorial.py RETHINKDB_PORT RABBITMQ_URL DATABASE TABLE EXCHANGE
"""

import json
import sys

import pika
from rethinkdb import r


def type_of_change(change: dict) -> str:
    if change["old_val"] is None:
        return "create"
    if change["new_val"] is None:
        return "delete"
    return "update"


port, url, database, table, exchange = sys.argv[1:]
rethink_conn = r.connect(host="127.0.0.1", port=int(port))
rabbit_conn = pika.BlockingConnection(pika.URLParameters(url))
channel = rabbit_conn.channel()
channel.exchange_declare(exchange, exchange_type="topic", durable=False)
table_changes = r.db(database).table(table).changes().run(rethink_conn)
print("ready", flush=True)
for change in table_changes:
    routing_key = table + "." + type_of_change(change)
    channel.basic_publish(exchange, routing_key, json.dumps(change))
