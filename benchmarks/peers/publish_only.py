"""Publish ready-made messages with pika and nothing else: the limit for any program with pika.

Persistent, mandatory, confirmed, with a window of unconfirmed messages as large as this project's.
Starts at the first line on standard input.
Usage: publish_only.py RABBITMQ_URL EXCHANGE ROUTING_KEY COUNT BYTES [WINDOW [MESSAGE_ID]]
"""

import json
import sys

import pika

url, exchange, routing_key, count, size = sys.argv[1:6]
window = int(sys.argv[6]) if len(sys.argv) > 6 else 5000
properties = pika.BasicProperties(
    content_type="application/json",
    delivery_mode=pika.DeliveryMode.Persistent.value,
    message_id=sys.argv[7] if len(sys.argv) > 7 else None,
)


class Publisher:
    def __init__(self, bodies: list[str]) -> None:
        self.bodies = bodies
        self.sent = 0
        self.confirmed = 0
        self.connection = pika.SelectConnection(pika.URLParameters(url), self.on_connected)

    def on_connected(self, connection: pika.SelectConnection) -> None:
        connection.channel(on_open_callback=self.on_channel)

    def on_channel(self, channel: pika.channel.Channel) -> None:
        self.channel = channel
        channel.add_on_close_callback(self.on_closed)
        channel.confirm_delivery(self.on_confirm, callback=lambda _frame: self.on_ready())

    def on_closed(self, _channel: pika.channel.Channel, reason: Exception) -> None:
        sys.exit(f"the channel was closed: {reason}")

    def on_ready(self) -> None:
        print("ready", flush=True)
        sys.stdin.readline()
        self.fill()

    def fill(self) -> None:
        while self.sent < len(self.bodies) and self.sent - self.confirmed < window:
            self.channel.basic_publish(
                exchange, routing_key, self.bodies[self.sent], properties, mandatory=True
            )
            self.sent += 1

    def on_confirm(self, frame: pika.frame.Method) -> None:
        if isinstance(frame.method, pika.spec.Basic.Nack):
            sys.exit("RabbitMQ refused a message")
        # Tags count from one; a confirm of several confirms all up to its tag.
        if frame.method.multiple:
            self.confirmed = max(self.confirmed, frame.method.delivery_tag)
        else:
            self.confirmed += 1
        self.fill()


def body(number: int) -> str:
    document = {
        "filler": "x" * max(0, int(size) - 60),
        "id": f"document-{number:012d}",
        "n": number,
    }
    return json.dumps({"old_val": None, "new_val": document}, separators=(",", ":"))


Publisher([body(number) for number in range(int(count))]).connection.ioloop.start()
