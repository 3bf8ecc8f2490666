"""Which RabbitMQ the demo, the tests and the benchmarks run."""

import os
import subprocess
from pathlib import Path

import pytest
from replicator_sandbox.host import find_rabbitmq

from replicator.errors import ServerMissing


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RABBITMQ_HOME", str(tmp_path))
    return tmp_path


def install(directory: Path) -> None:
    directory.mkdir(parents=True)
    for script in ("rabbitmq-server", "rabbitmq-env"):
        (directory / script).touch()


@pytest.mark.parametrize("place", ["sbin", "bin"])
def test_a_release_is_run_with_the_erlang_on_path(home: Path, place: str) -> None:
    install(home / place)

    found = find_rabbitmq()

    assert found is not None
    assert found.script("rabbitmqctl") == [str(home / place / "rabbitmqctl")]
    assert found.of_erlang("erl") == ["erl"]


def test_the_programs_of_a_debian_tree_find_their_own_usr(home: Path) -> None:
    install(home / "usr/lib/rabbitmq/bin")

    found = find_rabbitmq()

    assert found is not None
    *within, script = found.script("rabbitmq-server")
    assert script == "/usr/lib/rabbitmq/bin/rabbitmq-server"
    assert within[0] == "unshare"
    assert within[-1] == str(home / "usr")
    assert found.of_erlang("epmd") == [*within, "/usr/bin/epmd"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount of one's own may be forbidden")
def test_a_tree_is_seen_by_its_own_program_only_and_can_be_removed(home: Path) -> None:
    install(home / "usr/lib/rabbitmq/bin")
    found = find_rabbitmq()
    assert found is not None
    # An empty tree has no program to run: one that the shell has within itself tells what it sees.
    command = [*found.within, "echo"]
    command[command.index("sh") + 2] = 'mount --bind "$0" /usr && echo /usr/lib/*'

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout == "/usr/lib/rabbitmq\n"
    assert len(list(Path("/usr/lib").iterdir())) > 1
    (home / "usr").rename(home / "removed")


def test_a_home_without_rabbitmq_is_an_error(home: Path) -> None:
    with pytest.raises(ServerMissing, match="RABBITMQ_HOME=") as missing:
        find_rabbitmq()

    assert str(home) in str(missing.value)
    assert "sbin/rabbitmq-server" in (missing.value.hint or "")
