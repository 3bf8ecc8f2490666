"""Settings: where their values come from."""

import json
from datetime import timedelta

import pytest
from pydantic import ValidationError

from replicator.config import HostPort, RethinkDBUrl, load_settings
from replicator.domain.model import TableName
from replicator.errors import SettingsInvalid
from tests.support.settings import WriteToml, load, problem_of_toml


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


def test_queues_have_arguments(toml: WriteToml) -> None:
    arguments = {"x-dead-letter-exchange": "dead", "x-max-length": 5, "x-single-active": True}
    path = toml(
        'tables = ["a.b"]\n[[rabbitmq.queues]]\nname = "q"\narguments = '
        '{ x-dead-letter-exchange = "dead", x-max-length = 5, x-single-active = true }\n'
    )
    in_json = {"REPLICATOR_RABBITMQ__QUEUES": json.dumps([{"name": "q", "arguments": arguments}])}

    for settings in (load_settings(path, environ={}), load(in_json)):
        (queue,) = settings.rabbitmq.queues
        assert repr(queue.arguments) == repr(arguments)  # true is not 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("1.5", "must be a table"),
        ("{x = 1.5}", "x: must be text, a whole number, true or false"),
        ("{x = [1]}", "x: must be text, a whole number, true or false"),
        ("{x = 9223372036854775808}", "x: AMQP's whole numbers have 64 bits"),
        (r'{x = "a\n"}', r"'a\n' must not have control characters, such as a line end"),
        ("{x-queue-type = 'stream'}", "has x-queue-type: that is the setting type"),
    ],
)
def test_arguments_that_amqp_does_not_have_are_refused(
    toml: WriteToml, arguments: str, words: str
) -> None:
    path = toml(f"[[rabbitmq.queues]]\nname = 'q'\narguments = {arguments}\n")

    problem = problem_of_toml(path)

    assert problem.startswith("rabbitmq.queues[0].arguments")
    assert problem.endswith(words)


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
