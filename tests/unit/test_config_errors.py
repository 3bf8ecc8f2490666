"""Settings: what an error says."""

from pathlib import Path

import pytest

from replicator.config.load import environment_variable
from tests.support.settings import (
    WriteToml,
    describe_settings,
    problem_of_toml,
    problems,
)


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
        f"file {tmp_path}: is a directory; it must be a regular file"
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


@pytest.mark.parametrize(
    "key",
    [
        setting.key
        for setting in describe_settings()
        if "[]" not in setting.key and "." in setting.key
    ],
)
@pytest.mark.parametrize("character", ["\n", "\x1b", "\x7f", "\x85", "\u2028"])
def test_no_text_has_a_control_character(key: str, character: str) -> None:
    (line, *_) = problems(environ={environment_variable(key): f"x{character}"})

    assert line.startswith(f"{key} ") or key == "rabbitmq.queues"
    assert line.isprintable()


def test_a_name_with_a_line_end_is_refused_and_shown_escaped() -> None:
    (line,) = problems(environ={"REPLICATOR_RABBITMQ__EXCHANGE": "x\n"})

    assert line == (
        "rabbitmq.exchange = 'x\\n' (environment variable REPLICATOR_RABBITMQ__EXCHANGE): "
        "must not have control characters, such as a line end"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[rabbitmq.queues]]\nname = 'q\\u0000'", "rabbitmq.queues[0].name = 'q\\x00' (F):"),
        (
            "[[rabbitmq.queues]]\nname = 'q'\nbindings = ['#', 'a\\n']",
            "rabbitmq.queues[0].bindings (F): 'a\\n'",
        ),
        ("[[tables]]\nname = 'a.b'\nexchange = 'x\\t'", "tables[a.b].exchange = 'x\\t' (F):"),
        (
            "[[tables]]\nname = 'a.b'\nrouting_key = '{op}\\r'",
            "tables[a.b].routing_key = '{op}\\r' (F):",
        ),
        (
            "[[tables]]\nname = 'a.b'\nexclude_fields = ['a.b\\n']",
            "tables[a.b].exclude_fields (F): 'a.b\\n'",
        ),
        ("[[tables]]\nname = 'a.b\\n'", "tables[0].name = 'a.b\\n' (F):"),
        (
            "[rabbitmq]\nurl = 'amqp://u:s3cret@h/\\n'",
            "rabbitmq.url = 'amqp://u:***@h/\\n' (F):",
        ),
    ],
)
def test_a_control_character_in_a_file_is_refused_where_it_is(
    toml: WriteToml, text: str, expected: str
) -> None:
    path = toml(text.replace("'", '"'))

    line = problem_of_toml(path).replace("file replicator.toml", "F")
    assert line == f"{expected} must not have control characters, such as a line end"


def test_the_variable_of_the_file_is_refused_when_it_is_set_and_empty() -> None:
    (line,) = problems(environ={"REPLICATOR_CONFIG": ""})

    assert line == (
        "config (environment variable REPLICATOR_CONFIG): "
        "is empty: unset the variable for the default"
    )
