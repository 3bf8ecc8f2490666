"""``replicator listen``: the tutorial's listener, for any exchange."""

import contextlib
from typing import Annotated

import typer

from replicator.cli import options, output
from replicator.cli.output import Facts
from replicator.composition import rabbitmq_broker
from replicator.config.values import short_name
from replicator.domain.instants import shown
from replicator.domain.properties import ORIGIN_HEADER
from replicator.publisher.listen import Message
from replicator.publisher.listen import listen as messages_of

_STYLES = {"create": "bold green", "update": "bold yellow", "delete": "bold red"}


_Bindings = Annotated[
    list[str] | None,
    typer.Option(
        "--binding",
        metavar="PATTERN",
        help="Routing keys to receive, such as 'mytable.*'; repeatable. All by default.",
    ),
]


def listen(
    *,
    binding: _Bindings = None,
    count: Annotated[
        int | None, typer.Option("--count", metavar="N", min=1, help="Stop after N messages.")
    ] = None,
    rabbitmq: options.RabbitMQUrl = None,
    exchange: options.Exchange = None,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Print messages as they come, from a temporary queue of its own.

    Messages published while it does not run are not shown: bind a durable queue to miss nothing.
    """
    settings = options.settings_from(
        config,
        {"rabbitmq.url": rabbitmq, "rabbitmq.exchange": exchange, "outbox.url": outbox},
    )
    bindings = binding or ["#"]
    for each in bindings:
        try:
            short_name(each)
        except ValueError as err:
            raise typer.BadParameter(f"{each!r}: {err}", param_hint="--binding") from err
    received = 0
    with contextlib.closing(messages_of(rabbitmq_broker(settings), bindings)) as messages:
        for message in messages:
            if message is None:
                output.note(
                    f"listening on exchange {settings.rabbitmq.exchange} for "
                    f"{', '.join(bindings)} at {settings.rabbitmq.url}; Ctrl-C stops"
                )
                continue
            if as_json:
                output.print_line(_facts(message))
            else:
                _print(message)
            received += 1
            if received == count:
                return


def _facts(message: Message) -> Facts:
    return {
        "routing_key": message.routing_key,
        "message_id": message.message_id,
        "type": message.type,
        "timestamp": _sent_at(message),
        "headers": dict(message.headers),
        "body": output.raw_or_text(message.body),
    }


def _sent_at(message: Message) -> str | int | None:
    """Return when a message was sent; the number itself if it is not one of seconds."""
    if message.timestamp is None:
        return None
    try:
        return shown(message.timestamp * 1_000_000)
    except OverflowError:
        return message.timestamp


def _print(message: Message) -> None:
    origin = str(message.headers.get(ORIGIN_HEADER, "feed"))
    output.say(
        output.words(
            (message.routing_key, _STYLES.get(message.type or "", "bold")),
            f"  {message.type or 'no type'}  from {origin}  {message.message_id or 'no id'}  ",
            (str(_sent_at(message) or ""), "dim"),
        )
    )
    output.say_body(message.body)
