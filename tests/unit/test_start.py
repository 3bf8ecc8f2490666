"""To tests, a forked process is what a program is that they start."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from tests.support.start import Forked, differ_in_settings_only, start
from tests.support.wait import wait_until

Begin = Callable[..., Any]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Starts a command with settings; it finds itself in a directory, with its ``err`` there."""
    processes = []

    def run(
        *arguments: str,
        directory: Path = tmp_path,
        out: Path = Path("out"),
        may_fork: bool = True,
        **settings: str,
    ) -> Any:
        environment = os.environ | {f"REPLICATOR_{key}": each for key, each in settings.items()}
        with chdir(directory), out.open("ab") as stdout, Path("err").open("ab") as stderr:
            process = start(arguments, environment, stdout, stderr, may_fork=may_fork)
        assert isinstance(process, Forked) == may_fork
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def serve(begin: Begin, tmp_path: Path) -> Begin:
    """Starts a service that waits for servers that are not there."""

    def run(directory: Path = tmp_path, **more: Any) -> Any:
        directory.mkdir(exist_ok=True)
        process = begin(
            "run",
            directory=directory,
            TABLES="a.b",
            OUTBOX__URL="sqlite:///here.db",
            RETHINKDB__URL="rethinkdb://127.0.0.1:1",
            RABBITMQ__URL="amqp://127.0.0.1:1",
            HTTP__LISTEN="off",
            **more,
        )
        log = directory / "err"
        wait_until(lambda: "feed is lost" in log.read_text() or process.poll() is not None, 30)
        return process

    return run


def test_its_status_and_its_output_are_its_own(begin: Begin, tmp_path: Path) -> None:
    assert begin("--version").wait(30) == 0
    assert (tmp_path / "out").read_text().startswith("replicator ")
    assert begin("run", "--no-such-option").wait(30) == 2
    assert "no-such-option" in (tmp_path / "err").read_text()


def test_output_that_cannot_be_written_is_told(begin: Begin, tmp_path: Path) -> None:
    assert begin("--version", out=Path("/dev/full")).wait(30) == 1
    assert "cannot be written" in (tmp_path / "err").read_text()


def _seen_of(process: Any, directory: Path) -> dict[str, Any]:
    """Return what the kernel tells of a process and is the same for two that do the same."""
    of_it = Path(f"/proc/{process.pid}")
    status = dict(line.split(":\t", 1) for line in (of_it / "status").read_text().splitlines())
    kept = ["PPid", "Umask", "Threads", "SigCgt", "SigIgn", "SigBlk"]
    assert (of_it / "cwd").readlink() == directory
    opened = [str(each.readlink()).split(":")[0] for each in (of_it / "fd").iterdir()]
    return {
        **{name: status[name] for name in kept},
        "group": os.getpgid(process.pid),
        "session": os.getsid(process.pid),
        "limits": (of_it / "limits").read_text(),
        "opened": sorted(each.replace(str(directory), "") for each in opened),
    }


def test_the_kernel_sees_in_it_what_a_program_would_be(serve: Begin, tmp_path: Path) -> None:
    before = os.umask(0o27)
    try:
        forked, program = (serve(tmp_path / str(each), may_fork=each) for each in (True, False))
    finally:
        os.umask(before)

    def are_alike() -> bool:
        seen = _seen_of(forked, tmp_path / "True"), _seen_of(program, tmp_path / "False")
        assert int(seen[0]["PPid"]) == os.getpid()
        assert seen[0]["Umask"] == "0027"
        assert "/here.db" in seen[0]["opened"]
        return seen[0] == seen[1]

    wait_until(are_alike, 10, "the same")  # now and then each has a socket, and tries to connect


def test_two_draw_other_names(serve: Begin, tmp_path: Path) -> None:
    for name in ("one", "other"):
        serve(tmp_path / name)
    logs = [(tmp_path / name / "err").read_text() for name in ("one", "other")]
    ids = [match["id"] for log in logs for match in re.finditer('"outbox_id": "(?P<id>.*?)"', log)]
    assert len(set(ids)) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(serve: Begin, number: signal.Signals) -> None:
    service = serve()
    assert service.poll() is None
    service.send_signal(number)
    assert service.wait(30) == 0


def test_a_kill_is_its_status(serve: Begin) -> None:
    service = serve()
    service.kill()
    assert service.wait(30) == -signal.SIGKILL
    service.kill()
    assert service.poll() == service.returncode == -signal.SIGKILL


def test_a_stopped_process_is_waited_for_in_vain(serve: Begin) -> None:
    service = serve()
    service.send_signal(signal.SIGSTOP)
    service.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        service.wait(0.2)
    service.send_signal(signal.SIGCONT)
    assert service.wait(30) == 0


@pytest.mark.parametrize("name", ["PYTHONUNBUFFERED", "LC_ALL", "COLUMNS", "FAULT_POINT"])
def test_imports_find_another_environment(name: str) -> None:
    settings = {"REPLICATOR_TABLES": "a.b"}
    assert differ_in_settings_only({"HOME": "/", **settings}, {"HOME": "/"})
    assert not differ_in_settings_only({"HOME": "/", name: "1", **settings}, {"HOME": "/"})
    assert not differ_in_settings_only({"HOME": "/"}, {"HOME": "/", name: "1"})
    assert not differ_in_settings_only({name: "2"}, {name: "1"})


def test_another_environment_is_a_program_of_its_own(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        process = start(["--version"], os.environ | {"COLUMNS": "77"}, out, out)
    assert isinstance(process, subprocess.Popen)
    assert process.wait(30) == 0


def test_what_lost_its_parent_is_not_left_to_the_tests(begin: Begin) -> None:
    begin("--version").wait(30)
    script = "import os, time; print(os.fork() or time.sleep(0.1), flush=True)"
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True)
    orphan = int(done.stdout.split()[0])
    with pytest.raises(ChildProcessError):
        os.waitpid(orphan, os.WNOHANG)
