"""Settings: where they come from, what is accepted, and what an error says."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from replicator.config import (
    HostPort,
    RabbitMQUrl,
    RethinkDBUrl,
    Settings,
    load_settings,
)
from replicator.config.values import (
    parse_duration,
    parse_host_port,
    parse_size,
)
from replicator.domain.model import TableName, of_table
from replicator.errors import SettingsInvalid
from tests.support.settings import describe_settings

TABLE = {"REPLICATOR_TABLES": "a.b"}

WriteToml = Callable[[str], Path]


@pytest.fixture
def toml(tmp_path: Path) -> WriteToml:
    def write(text: str) -> Path:
        path = tmp_path / "replicator.toml"
        path.write_text(text)
        return path

    return write


def load(environ: Mapping[str, str] | None = None, **keywords: Any) -> Settings:
    return load_settings(environ=TABLE | dict(environ or {}), **keywords)


def problems(
    config_file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> list[str]:
    with pytest.raises(SettingsInvalid) as refused:
        load_settings(config_file, flags, TABLE | dict(environ or {}))
    return str(refused.value).splitlines()


def problem_of_toml(path: Path) -> str:
    with pytest.raises(SettingsInvalid) as refused:
        load_settings(path, environ={})
    (line,) = str(refused.value).splitlines()
    return line.replace(str(path), "replicator.toml")


# Where a value comes from.


def test_everything_has_a_default_but_the_tables() -> None:
    settings = load()

    assert settings.rethinkdb.url == RethinkDBUrl((HostPort("127.0.0.1", 28015),), "admin")
    assert settings.rethinkdb.password == ""
    assert settings.rabbitmq.url.hosts == (("127.0.0.1", 5672),)
    assert (settings.rabbitmq.user, settings.rabbitmq.password) == ("guest", "guest")
    assert (settings.rabbitmq.url.virtual_host, settings.rabbitmq.url.tls) == ("/", False)
    assert (settings.rabbitmq.exchange, settings.rabbitmq.exchange_type) == ("rethinkdb", "topic")
    assert (settings.rabbitmq.exchange_durable, settings.rabbitmq.persistent) == (True, True)
    assert (settings.rabbitmq.headers, settings.rabbitmq.window) == ("compact", 5000)
    assert (settings.rabbitmq.on_unroutable, settings.rabbitmq.queues) == ("drop", ())
    assert settings.outbox.url == "sqlite:///replicator.db"
    assert (settings.outbox.max_entries, settings.outbox.max_bytes) == (1_000_000, 4 * 2**30)
    assert settings.http.listen == HostPort("127.0.0.1", 9464)
    assert (settings.log.format, settings.log.level) == ("auto", "info")
    assert settings.drain_timeout == timedelta(seconds=20)
    (table,) = settings.tables
    assert (table.name, table.full_name) == ("a.b", TableName("a", "b"))
    assert (table.initial, str(table.routing_key)) == ("publish", "{table}.{op}")
    assert (table.exchange, table.envelope, table.keep_documents) == (None, "change", False)
    assert (table.exclude_fields, table.include_fields) == ((), ())


def test_a_flag_goes_over_the_environment_over_the_file(toml: WriteToml) -> None:
    path = toml('[rabbitmq]\nexchange = "file"\nwindow = 1\nheaders = "full"\n')
    environ = {"REPLICATOR_RABBITMQ__EXCHANGE": "environment", "REPLICATOR_RABBITMQ__WINDOW": "2"}

    settings = load(environ, config_file=path, flags={"rabbitmq.exchange": "flag"})

    assert settings.rabbitmq.exchange == "flag"
    assert settings.rabbitmq.window == 2
    assert settings.rabbitmq.headers == "full"


def test_a_flag_that_was_not_given_changes_nothing() -> None:
    settings = load(flags={"rabbitmq.exchange": None, "tables": []})

    assert settings == load()


def test_the_environment_can_name_the_file(toml: WriteToml) -> None:
    path = toml('drain_timeout = "3s"\n')

    assert load({"REPLICATOR_CONFIG": str(path)}).drain_timeout == timedelta(seconds=3)


def test_the_process_s_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATOR_TABLES", "x.y")

    assert [table.name for table in load_settings().tables] == ["x.y"]


def test_tables_named_from_outside_keep_the_file_s_options(toml: WriteToml) -> None:
    path = toml(
        """
        [[tables]]
        name = "a.b"
        initial = "baseline"
        exclude_fields = ["secret"]
        [[tables]]
        name = "a.unwanted"
        """
    )

    settings = load_settings(path, environ={"REPLICATOR_TABLES": "a.b, a.c,"})

    assert [(table.name, table.initial) for table in settings.tables] == [
        ("a.b", "baseline"),
        ("a.c", "publish"),
    ]
    assert settings.tables[0].exclude_fields == (("secret",),)


def test_a_file_may_name_tables_without_options(toml: WriteToml) -> None:
    settings = load_settings(toml('tables = ["a.b", "a.c"]\n'), environ={})

    assert [str(table.full_name) for table in settings.tables] == ["a.b", "a.c"]


def test_queues_come_as_json_in_the_environment() -> None:
    queues = [{"name": "all"}, {"name": "some", "bindings": ["b.create"], "type": "stream"}]

    settings = load({"REPLICATOR_RABBITMQ__QUEUES": json.dumps(queues)})

    assert [(queue.name, queue.bindings, queue.type) for queue in settings.rabbitmq.queues] == [
        ("all", ("#",), "quorum"),
        ("some", ("b.create",), "stream"),
    ]


def test_no_table_is_an_error_with_the_flag_as_hint() -> None:
    with pytest.raises(SettingsInvalid, match="no table to replicate") as refused:
        load_settings(environ={})

    assert refused.value.hint == "use --table DB.TABLE"
    assert load_settings(environ={}, require_tables=False).tables == ()


def test_what_kubernetes_says_about_a_service_of_our_name_is_no_setting() -> None:
    load(
        {
            "REPLICATOR_SERVICE_HOST": "10.0.0.1",
            "REPLICATOR_SERVICE_PORT": "9464",
            "REPLICATOR_SERVICE_PORT_METRICS": "9464",
            "REPLICATOR_PORT": "tcp://10.0.0.1:9464",
            "REPLICATOR_PORT_9464_TCP": "tcp://10.0.0.1:9464",
            "REPLICATOR_PORT_9464_TCP_ADDR": "10.0.0.1",
            "REPLICATOR_METRICS_SERVICE_HOST": "10.0.0.1",
        }
    )


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load().rabbitmq.window = 1


# What an error says.


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("RABBITMQ__WINDOW", "0", "rabbitmq.window = '0' ({}): must be greater than or equal to 1"),
        ("RABBITMQ__WINDOW", "many", "rabbitmq.window = 'many' ({}): must be a whole number"),
        ("RABBITMQ__PERSISTENT", "si", "rabbitmq.persistent = 'si' ({}): must be true or false"),
        (
            "RABBITMQ__HEADERS",
            "all",
            "rabbitmq.headers = 'all' ({}): must be 'compact' or 'full'",
        ),
        (
            "RABBITMQ__EXCHANGE_TYPE",
            "tpoic",
            (
                "rabbitmq.exchange_type = 'tpoic' ({}): must be topic, direct, fanout, headers, "
                "or a plugin's type (x-…)"
            ),
        ),
        (
            "RABBITMQ__URL",
            "http://h",
            "rabbitmq.url = 'http://h' ({}): must begin with amqp:// or amqps://",
        ),
        (
            "RABBITMQ__QUEUES",
            "[",
            "rabbitmq.queues ({}): is not JSON: EOF while parsing a list at line 1 column 1",
        ),
        (
            "RABBITMQ__EXCHANGE",
            "",
            "rabbitmq.exchange ({}): is empty: unset the variable for the default",
        ),
        (
            "RETHINKDB__TLS_CA_FILE",
            "/nowhere",
            "rethinkdb.tls_ca_file = '/nowhere' ({}): cannot be read: No such file or directory",
        ),
        (
            "OUTBOX__URL",
            "replicator.db",
            (
                "outbox.url = 'replicator.db' ({}): must be an SQLAlchemy URL such as "
                "sqlite:///replicator.db"
            ),
        ),
        (
            "OUTBOX__MAX_BYTES",
            "4 parsecs",
            (
                "outbox.max_bytes = '4 parsecs' ({}): must be a size such as 4GiB or 512MiB, "
                "or a number of bytes"
            ),
        ),
        (
            "DRAIN_TIMEOUT",
            "soon",
            (
                "drain_timeout = 'soon' ({}): must be a duration such as 20s, 500ms or 2m, "
                "or a number of seconds"
            ),
        ),
        (
            "TABLES",
            "mytable",
            (
                "tables[0].name = 'mytable' ({}): must be DATABASE.TABLE or DATABASE.*, "
                "in letters a-z and A-Z, digits, _ and -"
            ),
        ),
        (
            "TABLES",
            "*.b",
            (
                "tables[0].name = '*.b' ({}): must be DATABASE.TABLE or DATABASE.*, "
                "in letters a-z and A-Z, digits, _ and -"
            ),
        ),
        ("TABLES", "a.*,a.*", "tables ({}): names a.* twice"),
        ("TABLES", "a.b,a.b", "tables ({}): names a.b twice"),
    ],
)
def test_an_error_names_the_key_the_value_its_origin_and_what_is_allowed(
    variable: str, value: str, expected: str
) -> None:
    name = f"REPLICATOR_{variable}"

    assert problems(environ={name: value}) == [expected.format(f"environment variable {name}")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[rabbitmq]\nurll = 1",
            "rabbitmq.urll (file replicator.toml): is not a setting; did you mean rabbitmq.url?",
        ),
        (
            "[rabitmq]\nwindow = 1",
            "rabitmq (file replicator.toml): is not a setting; did you mean rabbitmq?",
        ),
        ("rabbitmq = 1", "rabbitmq (file replicator.toml): is a section, written [rabbitmq]"),
        ("tables = 'a.b'", "tables (file replicator.toml): must be a list, written [[tables]]"),
        ("tables = [1]", "tables[0] = 1 (file replicator.toml): must be a table of settings"),
        ("[[tables]]", "tables[0].name (file replicator.toml): is missing"),
        (
            "[rabbitmq]\nwindow = true",
            "rabbitmq.window = true (file replicator.toml): must be a whole number",
        ),
        (
            "[rabbitmq]\nexchange = 5",
            "rabbitmq.exchange = 5 (file replicator.toml): must be text",
        ),
        (
            "[rabbitmq]\nurl = 5",
            "rabbitmq.url = 5 (file replicator.toml): must be text",
        ),
        (
            "[[tables]]\nname = 'a.b'\ninital = 'publish'",
            (
                "tables[a.b].inital (file replicator.toml): is not a setting; "
                "did you mean tables[].initial?"
            ),
        ),
        (
            "[[tables]]\nname = 'a.b'\nrouting_key = '{tabel}'",
            (
                "tables[a.b].routing_key = '{tabel}' (file replicator.toml): "
                "{tabel} is unknown: it may use {db}, {table} and {op}"
            ),
        ),
        (
            "[[tables]]\nname = 'a.b'\ninclude_fields = ['x']\nexclude_fields = ['y']",
            (
                "tables[a.b].include_fields (file replicator.toml): contradicts exclude_fields: "
                "give only one of the two"
            ),
        ),
        (
            "[[tables]]\nname = 'a.b'\nexclude_fields = 'x'",
            "tables[a.b].exclude_fields = 'x' (file replicator.toml): must be a list",
        ),
        (
            "[[tables]]\nname = 'a.b'\nenvelope = 'avro'",
            (
                "tables[a.b].envelope = 'avro' (file replicator.toml): "
                "must be 'change', 'cloudevents' or 'debezium'"
            ),
        ),
        (
            "[[tables]]\nname = 'a.b'\nexchange = ''",
            (
                "tables[a.b].exchange = '' (file replicator.toml): must have 1 to 255 bytes "
                "(AMQP's limit)"
            ),
        ),
        (
            "[[rabbitmq.queues]]\nname = 'amq.x'",
            (
                "rabbitmq.queues[0].name = 'amq.x' (file replicator.toml): "
                "must not begin with amq., which RabbitMQ reserves"
            ),
        ),
        (
            "rabbitmq.queues = [{name = 'q'}, {name = 'q'}]",
            "rabbitmq.queues (file replicator.toml): names q twice",
        ),
        (
            "rabbitmq = {exchange_type = 'direct', queues = [{name = 'q'}]}",
            (
                "rabbitmq.queues (file replicator.toml): the queue 'q' needs bindings: "
                "a direct exchange matches whole routing keys, no wildcards"
            ),
        ),
        (
            "tables = ['a.b'",
            "file replicator.toml: is not TOML: Unclosed array (at end of document)",
        ),
        (
            "drain_timeout = 3\nx y",
            (
                "file replicator.toml: is not TOML: "
                "Expected '=' after a key in a key/value pair (at line 2, column 3)"
            ),
        ),
    ],
)
def test_an_error_in_the_file_is_one_clear_line(toml: WriteToml, text: str, expected: str) -> None:
    assert problem_of_toml(toml(text)) == expected


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "missing.toml"

    assert problems(path) == [f"file {path}: cannot be read: No such file or directory"]
    assert problems(environ={"REPLICATOR_CONFIG": str(tmp_path)}) == [
        f"file {tmp_path}: cannot be read: Is a directory"
    ]


def test_a_file_that_is_not_utf_8_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "replicator.toml"
    path.write_bytes(b"# fine\n# \xff\n")

    assert problems(path) == [f"file {path}: is not UTF-8 text (at line 2)"]


def test_all_problems_are_told_at_once() -> None:
    lines = problems(
        flags={"http.listen": "9464", "rabbitmq.windw": 1},
        environ={"REPLICATOR_LOG__LEVEL": "loud", "REPLICATOR_RABITMQ__URL": "x"},
    )

    assert lines == [
        (
            "environment variable REPLICATOR_RABITMQ__URL: is not a setting; "
            "did you mean REPLICATOR_RABBITMQ__URL?"
        ),
        "rabbitmq.windw (flag --rabbitmq-windw): is not a setting; did you mean rabbitmq.window?",
        (
            "http.listen = '9464' (flag --http): must be HOST:PORT "
            "(0.0.0.0:9464 listens on all interfaces) or off: a port is a number from 0 to 65535"
        ),
        (
            "log.level = 'loud' (environment variable REPLICATOR_LOG__LEVEL): "
            "must be 'debug', 'info', 'warning' or 'error'"
        ),
    ]


def test_a_routing_key_too_long_for_amqp_is_refused(toml: WriteToml) -> None:
    path = toml(f"[[tables]]\nname = 'a.b'\nrouting_key = '{{op}}{'x' * 250}'")

    assert problem_of_toml(path).endswith(
        "makes keys of up to 256 bytes for this table: AMQP allows 255"
    )


def test_a_name_too_long_for_amqp_is_refused() -> None:
    (line,) = problems(environ={"REPLICATOR_RABBITMQ__EXCHANGE": "é" * 128})

    assert line.endswith("must have 1 to 255 bytes (AMQP's limit)")


# Secrets.


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RETHINKDB__URL", "rethinkdb://admin:s3cret@host:x"),
        ("RETHINKDB__URL", "rethinkdb://admin:s3cret/more@host"),
        ("RETHINKDB__URL", "rethinkdb://admin:s3cret"),
        ("RETHINKDB__URL", "admin:s3cret@host"),
        ("RABBITMQ__URL", "amqp://guest:s3cret@host/?heartbeat=1"),
        ("RABBITMQ__URL", "amqp://guest:s3cret%@host/"),
        ("RABBITMQ__URL", "amqp://a:s3cret@host,b:s3cret@host/"),
        ("RABBITMQ__EXCHANGE_TYPE", "amqp://guest:s3cret@host/"),
        ("OUTBOX__URL", "//u:s3cret@host/db"),
        ("RETHINKDB__PASSWORD", "s3cret"),
        ("PASSWORD", "s3cret"),
    ],
)
def test_an_error_never_shows_a_secret(variable: str, value: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        load_settings(environ=TABLE | {f"REPLICATOR_{variable}": value})

    assert "s3cret" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None


def test_settings_never_print_a_secret(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")

    settings = load(
        {
            "REPLICATOR_RETHINKDB__PASSWORD_FILE": str(secret),
            "REPLICATOR_RABBITMQ__URL": "amqp://me:s3cret@host/",
            "REPLICATOR_OUTBOX__URL": "postgresql://me:s3cret@host/db",
        }
    )

    assert settings.rabbitmq.password == "s3cret"
    assert str(settings.rabbitmq.url) == "amqp://me:***@host:5672/%2F"
    for text in (repr(settings), str(settings)):
        assert "s3cret" not in text


@pytest.mark.parametrize("content", ["s3cret", "s3cret\n", "s3cret\r\n"])
@pytest.mark.parametrize("section", ["rethinkdb", "rabbitmq"])
def test_a_password_can_come_from_a_file(tmp_path: Path, section: str, content: str) -> None:
    secret = tmp_path / "password"
    secret.write_bytes(content.encode())

    settings = load({f"REPLICATOR_{section.upper()}__PASSWORD_FILE": str(secret)})

    assert getattr(settings, section).password == "s3cret"


def test_only_one_line_end_is_taken_from_a_password_file(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(" spaces and\nlines \n\n")

    settings = load({"REPLICATOR_RETHINKDB__PASSWORD_FILE": str(secret)})

    assert settings.rethinkdb.password == " spaces and\nlines \n"


@pytest.mark.parametrize("section", ["rethinkdb", "rabbitmq"])
def test_a_password_in_both_places_is_a_contradiction(tmp_path: Path, section: str) -> None:
    secret = tmp_path / "password"
    secret.write_text("s3cret")
    scheme = {"rethinkdb": "rethinkdb", "rabbitmq": "amqp"}[section]

    (line,) = problems(
        flags={f"{section}.url": f"{scheme}://me:other@host"},
        environ={f"REPLICATOR_{section.upper()}__PASSWORD_FILE": str(secret)},
    )

    assert line.endswith("contradicts the password in url: give only one of the two")


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "is empty"), (b"\n", "is empty"), (b"\xff", "is not UTF-8 text")]
)
def test_an_unusable_password_file_is_a_clear_error(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    secret = tmp_path / "password"
    secret.write_bytes(content)

    (line,) = problems(environ={"REPLICATOR_RABBITMQ__PASSWORD_FILE": str(secret)})

    assert line == (
        f"rabbitmq.password_file = '{secret}' "
        f"(environment variable REPLICATOR_RABBITMQ__PASSWORD_FILE): {reason}"
    )


# TLS.


@pytest.fixture
def pem(tmp_path: Path) -> str:
    path = tmp_path / "some.pem"
    path.touch()
    return str(path)


def test_the_client_certificate_logs_in_where_the_url_names_nobody(pem: str) -> None:
    rabbitmq = load(flags={"rabbitmq.url": "amqps://host", "rabbitmq.tls_cert_file": pem}).rabbitmq

    assert rabbitmq.is_external
    assert (rabbitmq.user, rabbitmq.password) == (None, None)
    assert (rabbitmq.url.hosts, rabbitmq.url.tls) == ((HostPort("host", 5671),), True)


def test_a_user_in_the_url_logs_in_also_with_a_client_certificate(pem: str) -> None:
    rabbitmq = load(
        flags={"rabbitmq.url": "amqps://me:pw@host", "rabbitmq.tls_cert_file": pem}
    ).rabbitmq

    assert not rabbitmq.is_external
    assert (rabbitmq.user, rabbitmq.password) == ("me", "pw")


def test_a_url_without_a_user_means_guest() -> None:
    rabbitmq = load(flags={"rabbitmq.url": "amqp://host"}).rabbitmq

    assert (rabbitmq.user, rabbitmq.password) == ("guest", "guest")


@pytest.mark.parametrize("key", ["tls_ca_file", "tls_cert_file", "tls_key_file"])
def test_tls_files_without_tls_are_a_contradiction(key: str, pem: str) -> None:
    (line,) = problems(flags={f"rabbitmq.{key}": pem})

    assert line.endswith("contradicts amqp:// in url: TLS is amqps://")


def test_a_key_without_its_certificate_is_a_contradiction(pem: str) -> None:
    (line,) = problems(flags={"rabbitmq.url": "amqps://host", "rabbitmq.tls_key_file": pem})

    assert line.endswith("needs tls_cert_file beside it")


def test_a_password_file_needs_a_user(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("s3cret")

    (line,) = problems(flags={"rabbitmq.url": "amqp://host", "rabbitmq.password_file": str(secret)})

    assert line.endswith("needs a user in url")


# Addresses.


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


HOSTS = st.tuples(
    st.one_of(st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True), st.just("::1")),
    st.integers(1, 65535),
).map(lambda pair: HostPort(*pair))


@given(
    hosts=st.lists(HOSTS, min_size=1, max_size=3).map(tuple),
    user=st.text(min_size=1),
    password=st.none() | st.text(),
    virtual_host=st.text(min_size=1),
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


# Durations and sizes.


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("20s", 20), ("500ms", 0.5), ("2m", 120), ("1h", 3600), ("1.5s", 1.5), ("7", 7), (3, 3)],
)
def test_durations_are_understood(value: object, seconds: float) -> None:
    assert parse_duration(value) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "value", ["", "-1s", "1d", "s", "1m30s", -1, True, None, [], float("inf"), "9" * 400]
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("value", "size"),
    [("4GiB", 4 * 2**30), ("512 mib", 2**29), ("2GB", 2 * 10**9), ("10", 10), ("7B", 7), (5, 5)],
)
def test_sizes_are_understood(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["", "0", 0, -1, "1PiB", True, None, 1.5, 2**63, "9" * 400])
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be a size"):
        parse_size(value)


# Descriptions.


def test_every_setting_is_described_with_its_default() -> None:
    described = {setting.key: setting for setting in describe_settings()}

    assert described["rabbitmq.url"].default == "amqp://guest:guest@127.0.0.1:5672/%2F"
    assert described["outbox.max_bytes"].default == "4GiB"
    assert described["drain_timeout"].default == "20s"
    assert described["tables[].name"].default is None
    assert described["rabbitmq.window"].environment == "REPLICATOR_RABBITMQ__WINDOW"
    assert described["tables[].name"].environment is None
    assert all(setting.meaning for setting in described.values())


def test_each_described_default_is_what_the_setting_has_when_it_is_given() -> None:
    given_all = {
        setting.environment: setting.default
        for setting in describe_settings()
        if setting.environment and setting.default not in {None, "none"}
    }

    settings = load({str(name): str(value) for name, value in given_all.items()})

    assert settings.model_dump() == load().model_dump()


def test_a_table_that_names_no_exchange_has_the_main_one_also_beside_its_database(
    toml: WriteToml,
) -> None:
    path = toml('[[tables]]\nname = "shop.*"\nexchange = "X"\n[[tables]]\nname = "shop.orders"\n')
    exchanges = load_settings(path, environ={}).exchange_by_table

    assert of_table(exchanges, TableName("shop", "orders")) == "rethinkdb"
    assert of_table(exchanges, TableName("shop", "other")) == "X"
