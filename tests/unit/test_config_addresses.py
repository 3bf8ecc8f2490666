"""Settings: URLs and addresses."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.config import HostPort, RabbitMQUrl, RethinkDBUrl
from replicator.config.values import parse_host_port
from tests.support.settings import (
    load,
)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rethinkdb://h", RethinkDBUrl((HostPort("h", 28015),))),
        ("rethinkdb://h:1/", RethinkDBUrl((HostPort("h", 1),))),
        ("rethinkdb://u@h", RethinkDBUrl((HostPort("h", 28015),), "u")),
        ("rethinkdb://:p@h", RethinkDBUrl((HostPort("h", 28015),), "admin", "p")),
        ("RethinkDB://u:p%40%2F%3A%25@h", RethinkDBUrl((HostPort("h", 28015),), "u", "p@/:%")),
        (
            "rethinkdb://u:@h,[::1]:2,h3:3",
            RethinkDBUrl((HostPort("h", 28015), HostPort("::1", 2), HostPort("h3", 3)), "u", ""),
        ),
    ],
)
def test_rethinkdb_s_url_is_understood(url: str, expected: RethinkDBUrl) -> None:
    assert RethinkDBUrl.parse(url) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://h", RabbitMQUrl((HostPort("h", 5672),))),
        ("amqp://h/", RabbitMQUrl((HostPort("h", 5672),))),
        ("amqp://h/%2F", RabbitMQUrl((HostPort("h", 5672),))),
        ("amqp://h/v", RabbitMQUrl((HostPort("h", 5672),), virtual_host="v")),
        ("amqp://h/%2Fv%20w", RabbitMQUrl((HostPort("h", 5672),), virtual_host="/v w")),
        ("amqps://h", RabbitMQUrl((HostPort("h", 5671),), tls=True)),
        (
            "amqp://u:p@h1,h2:2/v",
            RabbitMQUrl((HostPort("h1", 5672), HostPort("h2", 2)), "u", "p", "v"),
        ),
    ],
)
def test_rabbitmq_s_url_is_understood(url: str, expected: RabbitMQUrl) -> None:
    assert RabbitMQUrl.parse(url) == expected


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("amqp://", "a host is missing"),
        ("amqp://u:p@/v", "a host is missing"),
        ("amqp://h,/v", "a host is missing"),
        ("amqp://h:0/", "a port is a number from 1 to 65535"),
        ("amqp://h:65536/", "a port is a number from 1 to 65535"),
        ("amqp://h:/", "a port is a number from 1 to 65535"),
        ("amqp://::1/", "in brackets"),
        ("amqp://[::1/", r"\[address\]:port"),
        ("amqp://[h]/", "must be IPv6"),
        ("amqp://h h/", "a host name has"),
        ("amqp://h/a/b", "in the virtual host is written %2F"),
        ("amqp://h/%zz", "a % in the virtual host is written %25"),
        ("amqp://h/%ff", "the virtual host is not UTF-8"),
        ("amqp://h/v%0A", "the virtual host must not have control characters"),
        ("amqp://u%00:p@h", "the user must not have control characters"),
        (f"amqp://h/{'v' * 256}", "the virtual host has more than 255 bytes"),
        ("amqp://h/v?heartbeat=5", "takes no parameters"),
        ("amqp://h/v#x", "takes no #fragment"),
        ("amqp://u:p/q@h", "/ is written %2F"),
        ("amqp://u:p#q@h", "# is %23"),
        ("amqp://u:p@q@h", "an @ in a password is written %40"),
        ("amqp:h", "must begin with amqp:// or amqps://"),
    ],
)
def test_a_broken_url_is_refused_with_its_fault(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        RabbitMQUrl.parse(url)


def test_rethinkdb_s_url_takes_no_path() -> None:
    with pytest.raises(ValueError, match="takes no path"):
        RethinkDBUrl.parse("rethinkdb://h/database")


# What a user, or a virtual host, may be named: no control characters.
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=60)
# Two dots in a row would be an empty name between them, which is refused.
HOSTS = st.tuples(
    st.one_of(
        st.from_regex(r"[a-z][a-z0-9-]{0,9}(\.[a-z0-9-]{1,9})?\.?", fullmatch=True), st.just("::1")
    ),
    st.integers(1, 65535),
).map(lambda pair: HostPort(*pair))


@given(
    hosts=st.lists(HOSTS, min_size=1, max_size=3).map(tuple),
    user=NAMES,
    password=st.none() | st.text(),
    virtual_host=NAMES,
    tls=st.booleans(),
)
def test_a_url_survives_writing_and_reading(
    hosts: tuple[HostPort, ...],
    user: str,
    password: str | None,
    virtual_host: str,
    tls: bool,  # noqa: FBT001
) -> None:
    url = RabbitMQUrl(hosts, user, password, virtual_host, tls)

    assert RabbitMQUrl.parse(url.reveal()) == url
    assert RethinkDBUrl.parse(RethinkDBUrl(hosts, user, password).reveal()).password == password
    assert repr(url) == str(url) == str(dataclasses.replace(url, password=password and "other"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("off", None),
        ("0.0.0.0:1", HostPort("0.0.0.0", 1)),
        ("[::]:0", HostPort("::", 0)),
    ],
)
def test_the_status_server_listens_where_it_is_told(text: str, expected: HostPort | None) -> None:
    assert load(flags={"http.listen": text}).http.listen == expected


def test_an_address_is_written_as_it_is_read() -> None:
    assert parse_host_port(str(HostPort("::1", 5)), default_port=None) == HostPort("::1", 5)
