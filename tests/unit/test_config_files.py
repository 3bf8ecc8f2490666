"""Settings: the files that they are in, and that they name."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.config import load_settings
from replicator.config.load import _MAX_FILE_BYTES
from tests.support.settings import load, problems

VARIABLES = {
    "rethinkdb.password_file": "REPLICATOR_RETHINKDB__PASSWORD_FILE",
    "rethinkdb.tls_ca_file": "REPLICATOR_RETHINKDB__TLS_CA_FILE",
    "rabbitmq.password_file": "REPLICATOR_RABBITMQ__PASSWORD_FILE",
    "rabbitmq.tls_ca_file": "REPLICATOR_RABBITMQ__TLS_CA_FILE",
    "rabbitmq.tls_cert_file": "REPLICATOR_RABBITMQ__TLS_CERT_FILE",
    "rabbitmq.tls_key_file": "REPLICATOR_RABBITMQ__TLS_KEY_FILE",
}


@pytest.fixture(params=["a pipe", "a socket", "a device", "a directory"])
def irregular(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A kind of file that is not read, and one of it."""
    kind, path = request.param, tmp_path / "irregular"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path = Path("/dev/zero")
    elif kind == "a directory":
        path.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        if kind == "a socket":
            listening.bind(str(path))
        yield kind, path


@pytest.mark.parametrize("key", VARIABLES)
def test_only_a_regular_file_is_read(key: str, irregular: tuple[str, Path]) -> None:
    kind, path = irregular
    said = f"is {kind}; it must be a regular file"
    if kind == "a socket":
        said = "cannot be read: No such device or address"

    assert problems(environ={VARIABLES[key]: str(path)}) == [
        f"{key} = '{path}' (environment variable {VARIABLES[key]}): {said}"
    ]


def test_settings_are_not_read_from_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe.toml"
    os.mkfifo(path)

    assert problems(path) == [f"file {path}: is a pipe; it must be a regular file"]


def test_a_pipe_of_the_shell_is_refused_too() -> None:
    """As in ``REPLICATOR_RABBITMQ__PASSWORD_FILE=<(pass show rabbitmq)``."""
    reading, writing = os.pipe()
    try:
        (line,) = problems(environ={VARIABLES["rabbitmq.password_file"]: f"/dev/fd/{reading}"})
    finally:
        os.close(reading)
        os.close(writing)

    assert line.endswith("is a pipe; it must be a regular file")


def test_a_secret_of_kubernetes_is_read_through_its_symbolic_links(tmp_path: Path) -> None:
    (tmp_path / "..2026_11_28").mkdir()
    (tmp_path / "..2026_11_28" / "password").write_text("s3cret")
    (tmp_path / "..data").symlink_to("..2026_11_28")
    (tmp_path / "password").symlink_to("..data/password")

    settings = load({VARIABLES["rabbitmq.password_file"]: str(tmp_path / "password")})

    assert settings.rabbitmq.password == "s3cret"


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "replicator.toml"
    path.write_bytes(b'\xef\xbb\xbftables = ["a.b"]\r\n')

    assert [table.name for table in load_settings(path, environ={}).tables] == ["a.b"]


def test_a_file_that_nobody_wrote_by_hand_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "replicator.toml"
    with path.open("wb") as file:
        file.truncate(_MAX_FILE_BYTES + 1)

    assert problems(path) == [f"file {path}: is larger than 16384 KiB"]
