"""Consume messages and record how long each was on its way: the other end of live changes.

One consumer for all programs, without acknowledgements. Writes a list of pairs, sent and latency
in microseconds, when it has received COUNT messages or gets SIGTERM.
Usage: consumer.py RABBITMQ_URL QUEUE COUNT FILE
"""

import json
import signal
import sys
import time
from pathlib import Path

import pika

url, queue, count, file = sys.argv[1:]
latencies: list[tuple[int, int]] = []


def take(_channel: object, _method: object, _properties: object, body: bytes) -> None:
    now = time.monotonic_ns() // 1000
    sent = json.loads(body)["new_val"]["sent_us"]
    latencies.append((sent, now - sent))
    if len(latencies) == int(count):
        write()
        print("done", flush=True)


def write() -> None:
    Path(file).write_text(json.dumps(latencies))


def end(_signal: int, _frame: object) -> None:
    write()
    sys.exit()


connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.basic_consume(queue, take, auto_ack=True)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
channel.start_consuming()
