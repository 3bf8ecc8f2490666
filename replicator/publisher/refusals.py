"""What RabbitMQ's refusals mean: whether they pass by themselves, and what to do about them.

AMQP's reply codes (0-9-1, section 1.2) are not enough: the same 530 is a virtual host that does not
exist and a limit of connections, which passes. So a row has a sign too, a pattern of RabbitMQ's
text. Names stand in quotation marks there, and are taken out first. The texts are those of
RabbitMQ 3.10 to 4.3, which differ in details.
"""

import re
from typing import Final, NamedTuple

from replicator.errors import BrokerRefused, BrokerUnavailable, ReplicatorError

ACCESS_REFUSED: Final = 403
NOT_FOUND: Final = 404
RESOURCE_LOCKED: Final = 405
PRECONDITION_FAILED: Final = 406
COMMAND_INVALID: Final = 503
NOT_ALLOWED: Final = 530
INTERNAL_ERROR: Final = 541

_QUOTED: Final = re.compile(r"'[^']*'")
_INEQUIVALENT: Final = re.compile(r"inequivalent arg '([^']*)'")
_CURRENT: Final = re.compile(r"received none but current is the value '(.*)' of type '(\w+)'$")


class Refusal(NamedTuple):
    """A row: what a reply code with this sign in its text means."""

    code: int
    sign: str
    kind: type[ReplicatorError]
    words: str
    hint: str

    def error(self, where: str, text: str) -> ReplicatorError:
        """Return the error to raise; ``where`` is the host and port that answered."""
        return self.kind(f"RabbitMQ at {where} {self.words}: {text}", hint=self.hint)


_UNKNOWN_TYPE: Final = (
    "unknown exchange type|invalid exchange type",
    BrokerRefused,
    "does not know rabbitmq.exchange_type",
    "set another rabbitmq.exchange_type, or enable the plugin that brings it",
)

REFUSALS: Final = (
    Refusal(
        NOT_ALLOWED,
        r"connection limit|reached the .*\blimit\b",
        BrokerUnavailable,
        "has reached a limit",
        "it is tried again; end connections that are not needed, or raise the limit: "
        "rabbitmqctl list_vhost_limits, list_user_limits",
    ),
    Refusal(
        NOT_ALLOWED,
        "",
        BrokerRefused,
        "refuses the virtual host",
        "check the path of rabbitmq.url and the user's permissions",
    ),
    Refusal(
        ACCESS_REFUSED,
        "(?i)login",
        BrokerRefused,
        "refuses the user or password",
        "check rabbitmq.url and rabbitmq.password_file; guest may log in from RabbitMQ's own host "
        "only; RabbitMQ's log says more",
    ),
    Refusal(
        ACCESS_REFUSED,
        "internal exchange",
        BrokerRefused,
        "takes messages for that exchange from other exchanges only",
        "set another exchange: this one was declared as internal",
    ),
    Refusal(
        ACCESS_REFUSED,
        "",
        BrokerRefused,
        "gives no permission",
        "grant it: docs/permissions.md has rabbitmqctl set_permissions for each case",
    ),
    Refusal(COMMAND_INVALID, *_UNKNOWN_TYPE),
    Refusal(PRECONDITION_FAILED, *_UNKNOWN_TYPE),  # since RabbitMQ 4
    Refusal(
        PRECONDITION_FAILED,
        "inequivalent",
        BrokerRefused,
        "has it already, and it is another",
        "make the settings match it",
    ),
    Refusal(
        PRECONDITION_FAILED,
        r"\blimit\b.*\breached\b",
        BrokerUnavailable,
        "has reached a limit",
        "it is tried again; delete queues that are not needed, or raise the limit: "
        "rabbitmqctl list_vhost_limits, set_vhost_limits",
    ),
    Refusal(
        PRECONDITION_FAILED,
        "",
        BrokerRefused,
        "does not take the declaration",
        "check the type and the arguments in rabbitmq.queues",
    ),
    Refusal(
        RESOURCE_LOCKED,
        "",
        BrokerUnavailable,
        "keeps the queue for another connection alone",
        "end that connection, or name another queue",
    ),
    Refusal(
        INTERNAL_ERROR,
        "is down",
        BrokerUnavailable,
        "has stopped the virtual host",
        "rabbitmqctl restart_vhost starts it again; RabbitMQ's log says why it stopped",
    ),
    Refusal(
        INTERNAL_ERROR,
        "deprecated|feature flag is disabled",
        BrokerRefused,
        "has a feature turned off",
        "turn it on (rabbitmqctl enable_feature_flag, or deprecated_features.permit in "
        "rabbitmq.conf), or set another type in rabbitmq.queues",
    ),
)
"""The first row that fits counts. What fits none passes: a node that stops, or loses its cluster,
ends connections with 320, 541 and others, and says 404 of queues whose node is down."""


def refusal_of(code: int, text: str) -> Refusal | None:
    """Return what an answer means, or None if it says nothing but that something was lost."""
    bare = _QUOTED.sub("", text)
    return next((row for row in REFUSALS if row.code == code and re.search(row.sign, bare)), None)


def is_missing(code: int, text: str) -> bool:
    """Return whether there is no such exchange or queue: one whose node is down is not missing."""
    return code == NOT_FOUND and re.search(r"\bno (exchange|queue)\b", text) is not None


def differing(code: int, text: str) -> str:
    """Return in which argument what exists is other than declared, the first one; or nothing."""
    found = _INEQUIVALENT.search(text) if code == PRECONDITION_FAILED else None
    return found[1] if found else ""


def current(text: str) -> str | int | bool | None:
    """Return the value of an argument that the declaration did not have; None if it is not told.

    RabbitMQ cuts a text off after 255 bytes.
    """
    found = _CURRENT.search(text)
    if found is None:
        return None
    value, kind = found.groups()
    if kind == "bool":
        return value == "true"
    return value if kind == "longstr" else int(value) if value.lstrip("-").isdigit() else None
