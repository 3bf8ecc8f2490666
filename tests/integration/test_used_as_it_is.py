"""What exists at RabbitMQ and serves is used as it is, told once; what does not is refused."""

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from replicator_sandbox.rabbitmq import PrivateRabbitMQ

from replicator.errors import BrokerRefused
from replicator.publisher import fence as fence_module
from replicator.publisher.broker import Broker, DeclaredQueue
from replicator.publisher.fence import fence_name
from replicator.publisher.topology import prepare
from tests.support.command import Command, command_line
from tests.support.publishing import OUTBOX_ID, RunningPublisher, broker_of, make_entry

TOLD = "something is there and is not as the settings say"


class Recorder:
    """A logger that keeps the events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def warning(self, event: str, **_: object) -> None:
        self.events.append(event)

    info = warning


@pytest.fixture
def channel(vhost: str) -> Iterator[Any]:
    with pika.BlockingConnection(pika.URLParameters(vhost)) as connection:
        yield connection.channel()


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], vhost: str
) -> Iterator[Command]:
    monkeypatch.setenv("REPLICATOR_RABBITMQ__URL", vhost)
    monkeypatch.setenv("REPLICATOR_RETHINKDB__URL", "rethinkdb://127.0.0.1:1")
    monkeypatch.setenv("REPLICATOR_TABLES", "shop.mytable")
    monkeypatch.setenv("REPLICATOR_HTTP__LISTEN", "off")
    with command_line(monkeypatch, capsys) as run:
        yield run


def found(cli: Command, part: str, *arguments: str) -> Any:
    lines = cli("check", "--json", *arguments).objects
    (line,) = [line for line in lines if line["part"] == part]
    return line


def refusal_of(broker: Broker) -> BrokerRefused:
    with RunningPublisher(broker) as running:
        error = running.wait_for_refusal()
    assert isinstance(error, BrokerRefused)
    return error


def ready_messages(channel: Any, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).method.message_count)


Declare = Callable[[Any], object]

EXCHANGES: list[tuple[str, Declare]] = [
    (
        "alternate-exchange",
        lambda channel: channel.exchange_declare(
            "rethinkdb", "topic", durable=True, arguments={"alternate-exchange": "amq.fanout"}
        ),
    ),
    (
        "auto_delete",
        lambda channel: channel.exchange_declare(
            "rethinkdb", "topic", durable=True, auto_delete=True
        ),
    ),
]
QUEUES: list[tuple[str, Declare]] = [
    (
        "x-dead-letter-exchange",
        lambda channel: channel.queue_declare(
            "q", durable=True, arguments={"x-dead-letter-exchange": "amq.fanout"}
        ),
    ),
    (
        "auto_delete",
        lambda channel: channel.queue_declare("q", durable=True, auto_delete=True),
    ),
]


@pytest.mark.parametrize(("difference", "declare"), EXCHANGES)
def test_an_exchange_that_serves_is_used_and_told_once(
    vhost: str,
    channel: Any,
    cli: Command,
    difference: str,
    declare: Declare,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    declare(channel)
    queue = DeclaredQueue("q", ["#"], "classic")

    log = Recorder()
    running = RunningPublisher(broker_of(vhost, queues=[queue]))
    monkeypatch.setattr(running.publisher._state, "_log", log)

    with running:
        running.offer([make_entry(1)])
        running.wait_until_settled(1)
        # As at each new connection.
        prepare(broker_of(vhost, queues=[queue]), running.publisher._state.uses)

    assert log.events.count(TOLD) == 1
    line = found(cli, "exchange rethinkdb")
    assert line["ok"]
    assert "is used as it is" in line["message"]
    assert difference in line["message"]


@pytest.mark.parametrize(("difference", "declare"), QUEUES)
def test_a_queue_that_serves_is_bound_and_told(
    vhost: str,
    channel: Any,
    cli: Command,
    difference: str,
    declare: Declare,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    declare(channel)
    queue = DeclaredQueue("q", ["#"], "classic")

    log = Recorder()
    running = RunningPublisher(broker_of(vhost, queues=[queue]))
    monkeypatch.setattr(running.publisher._state, "_log", log)

    with running:
        running.offer([make_entry(1)])
        running.wait_until_settled(1)

    assert ready_messages(channel, "q") == 1
    assert log.events.count(TOLD) == 1
    monkeypatch.setenv(
        "REPLICATOR_RABBITMQ__QUEUES", json.dumps([{"name": "q", "type": "classic"}])
    )
    line = found(cli, "queue q")
    assert line["ok"]
    assert "is used as it is" in line["message"]
    assert difference in line["message"]


def test_a_queue_of_another_type_is_refused_only_where_the_type_is_given(
    vhost: str, channel: Any, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The dead letter exchange is the difference that RabbitMQ names first.
    channel.queue_declare("q", durable=True, arguments={"x-dead-letter-exchange": "amq.fanout"})
    queue = DeclaredQueue("q", ["#"], "quorum", is_type_given=False)

    with RunningPublisher(broker_of(vhost, queues=[queue])) as running:
        running.offer([make_entry(1)])
        running.wait_until_settled(1)
    assert ready_messages(channel, "q") == 1
    monkeypatch.setenv("REPLICATOR_RABBITMQ__QUEUES", '[{"name": "q"}]')
    line = found(cli, "queue q")
    assert line["ok"]
    assert "is used as it is" in line["message"]

    error = refusal_of(broker_of(vhost, queues=[queue._replace(is_type_given=True)]))
    monkeypatch.setenv("REPLICATOR_RABBITMQ__QUEUES", '[{"name": "q", "type": "quorum"}]')
    line = found(cli, "queue q")
    assert "x-queue-type" in str(error)
    assert (line["permanent"], line["message"]) == (True, str(error))


def test_a_queue_that_is_not_durable_does_not_serve(vhost: str, channel: Any) -> None:
    channel.queue_declare("q", durable=False)
    queue = DeclaredQueue("q", ["#"], "classic", is_type_given=False)

    assert "'durable'" in str(refusal_of(broker_of(vhost, queues=[queue])))


def test_arguments_of_the_settings_are_declared_and_compared(
    vhost: str, channel: Any, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"x-dead-letter-exchange": "amq.fanout", "x-max-length": 2**40, "x-flag": True}
    queue = DeclaredQueue("q", ["#"], "classic", arguments)
    for _ in range(2):
        with RunningPublisher(broker_of(vhost, queues=[queue])) as running:
            running.wait_until_connected()
    channel.queue_declare("q", durable=True, arguments=arguments)

    other = queue._replace(arguments={"x-max-length": 5})
    error = refusal_of(broker_of(vhost, queues=[other]))
    monkeypatch.setenv(
        "REPLICATOR_RABBITMQ__QUEUES",
        json.dumps([{"name": "q", "type": "classic", "arguments": other.arguments}]),
    )
    line = found(cli, "queue q")

    assert "queue 'q' exists and is another" in str(error)
    assert "x-max-length" in str(error)
    assert (line["permanent"], line["message"]) == (True, str(error))


def test_an_argument_that_rabbitmq_does_not_take_is_refused(vhost: str) -> None:
    queue = DeclaredQueue("q", ["#"], "classic", {"x-max-length": "long"})

    error = refusal_of(broker_of(vhost, queues=[queue]))

    assert "does not take the declaration" in str(error)
    assert "another" not in str(error)
    assert "rabbitmq.queues" in str(error.hint)


def test_an_internal_exchange_does_not_serve(vhost: str, channel: Any, cli: Command) -> None:
    channel.exchange_declare("rethinkdb", "topic", durable=True, internal=True)

    error = refusal_of(broker_of(vhost))
    line = found(cli, "exchange rethinkdb")

    assert "from other exchanges only" in str(error)
    assert (line["permanent"], line["message"]) == (True, str(error))


def test_a_queue_that_exists_takes_no_right_to_configure_it(
    rabbitmq: PrivateRabbitMQ,
    vhost: str,
    channel: Any,
    cli: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    channel.exchange_declare("rethinkdb", "topic", durable=True)
    channel.queue_declare("q", durable=True)
    user = f"u{uuid.uuid4().hex[:12]}"
    rabbitmq.ctl("add_user", user, "pw")
    rights = ("^rethinkdb\\.replicator", "^(rethinkdb|q)$", "^rethinkdb$")
    rabbitmq.ctl("set_permissions", "-p", vhost.rpartition("/")[2], user, *rights)
    broker = broker_of(vhost, user=user, password="pw")

    with RunningPublisher(broker._replace(queues=[DeclaredQueue("q", ["#"], "quorum")])) as running:
        running.offer([make_entry(1)])
        running.wait_until_settled(1)
    assert ready_messages(channel, "q") == 1

    monkeypatch.setenv("REPLICATOR_RABBITMQ__QUEUES", json.dumps([{"name": "q"}]))
    line = found(cli, "queue q", "--rabbitmq", vhost.replace("guest:guest", f"{user}:pw"))
    assert line["ok"]
    assert "cannot be seen" in line["message"]


def test_amq_topic_has_a_fence(vhost: str, cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Recorder()
    monkeypatch.setattr(fence_module, "get_logger", lambda _name: log)
    broker = broker_of(vhost, exchange="amq.topic")

    with RunningPublisher(broker) as running:
        running.wait_until_connected()
        with pika.BlockingConnection(pika.URLParameters(vhost)) as connection:
            name = fence_name("amq.topic", OUTBOX_ID)
            with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="RESOURCE_LOCKED"):
                connection.channel().queue_declare(name, passive=True)

    assert log.events == []
    assert found(cli, "exchange amq.topic", "--exchange", "amq.topic")["ok"]
    fence = found(cli, "fence", "--exchange", "amq.topic")
    assert (fence["ok"], fence["message"]) == (True, "may be declared")


@pytest.mark.parametrize("exchange", ["amq.mine", "amq.direct"])
def test_other_names_of_rabbitmq_are_refused_with_advice_that_helps(
    vhost: str, cli: Command, exchange: str
) -> None:
    error = refusal_of(broker_of(vhost, exchange=exchange))
    line = found(cli, f"exchange {exchange}", "--exchange", exchange)

    assert (line["permanent"], line["message"], line["hint"]) == (True, str(error), error.hint)
    if exchange == "amq.mine":
        assert "keeps names that begin with amq. for itself" in str(error)
        assert "amq.topic" in str(error.hint)
    else:
        assert "exists and is another" in str(error)
        assert "exchange_type" in str(error.hint)
    for useless in ("delete", "set_permissions"):
        assert useless not in str(error.hint)


@pytest.mark.parametrize(
    ("exchange", "name"),
    [
        ("rethinkdb", "rethinkdb.replicator.abcdefgh"),
        ("x" * 240, "replicator.abcdefgh"),
        ("amq.topic", "replicator.abcdefgh"),
        ("amqp", "amqp.replicator.abcdefgh"),
    ],
)
def test_the_fence_s_name_is_one_that_rabbitmq_takes(exchange: str, name: str) -> None:
    assert fence_name(exchange, "abcdefgh") == name
