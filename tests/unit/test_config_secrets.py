"""Settings: passwords and certificates, which are never shown."""

from pathlib import Path

import pytest

from replicator.config import HostPort, load_settings
from replicator.errors import SettingsInvalid
from tests.support.settings import TABLE, load, problems


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


@pytest.mark.parametrize("content", ["s3cret", "s3cret\n", "s3cret\r\n", "\ufeffs3cret\r\n"])
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
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff", "is not UTF-8 text (at line 1)"),
        (b"x" * 70_000, "is larger than 64 KiB"),
    ],
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
