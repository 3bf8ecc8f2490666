"""The tutorial's feeder made safer in the way that pika's documentation shows first.

A durable exchange, persistent messages, and `confirm_delivery`, which makes each publish wait for
its confirm. A fault of the feed still loses changes.
Usage: tutorial_confirm.py RETHINKDB_PORT RABBITMQ_URL DATABASE TABLE EXCHANGE
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
channel.confirm_delivery()
channel.exchange_declare(exchange, exchange_type="topic", durable=True)
persistent = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent.value)
table_changes = r.db(database).table(table).changes().run(rethink_conn)
print("ready", flush=True)
for change in table_changes:
    routing_key = table + "." + type_of_change(change)
    channel.basic_publish(exchange, routing_key, json.dumps(change), persistent)
