"""Passwords on the command line: what the process list shows, and what messages repeat."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.cli.arguments import mask_arguments
from replicator.config.urls import RabbitMQUrl
from replicator.config.values import HostPort


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("rethinkdb://admin:secret@host:28015", "rethinkdb://admin:******@host:28015"),
        ("--rabbitmq=amqp://u:a:b@c@h/v", "--rabbitmq=amqp://u:*****@h/v"),
        ("amqp://u:päss@h", "amqp://u:*****@h"),  # in bytes
        ("amqp://u:two words@h", "amqp://u:*********@h"),
        ("amqp://:secret@h", "amqp://:******@h"),
        # Broken ones: nobody knows which part was meant as the password.
        ("amqp://u:secret", "*" * 15),
        ("admin:secret@host", "admin:******@host"),
        # Nothing to hide.
        ("rethinkdb://admin@host:28015,other:1", "rethinkdb://admin@host:28015,other:1"),
        ("--http=127.0.0.1:9464", "--http=127.0.0.1:9464"),
        ("sqlite:////var/lib/replicator/outbox.db", "sqlite:////var/lib/replicator/outbox.db"),
        ("shop.orders", "shop.orders"),
        ("--table", "--table"),
        ("", ""),
    ],
)
def test_a_password_becomes_stars(argument: str, shown: str) -> None:
    block = f"replicator\0run\0{argument}\0last\0".encode()

    assert mask_arguments(block).decode() == f"replicator\0run\0{shown}\0last\0"


@given(password=st.text(st.characters(exclude_categories=["Cs"]), min_size=5))
def test_no_password_of_a_url_stays_and_nothing_else_moves(password: str) -> None:
    url = RabbitMQUrl((HostPort("h", 1),), "user", password).reveal().encode()
    before = b"run\0--rabbitmq\0" + url + b"\0--exchange\0x\0"

    after = mask_arguments(before)

    assert len(after) == len(before)
    assert [len(each) for each in after.split(b"\0")] == [len(e) for e in before.split(b"\0")]
    assert url.partition(b"user:")[2].partition(b"@")[0] not in after
    assert after.startswith(b"run\0--rabbitmq\0amqp://user:")
    assert after.endswith(b"@h:1/%2F\0--exchange\0x\0")
