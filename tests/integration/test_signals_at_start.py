"""Signals to a process that has just begun, as process 1 of a container and as any other."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.wait import wait_until

_RUN = [sys.executable, "-m", "replicator", "run", "--table", "a.b"]
# Ends 30 seconds after the order to stop, as if RabbitMQ did not confirm.
_SLOW = """
import threading, time
from replicator import service
from replicator.config import load_settings

class Slow:
    def __init__(self, settings): self._stop = threading.Event()
    def request_stop(self): self._stop.set()
    def run(self):
        print("runs", flush=True)
        while not self._stop.wait(0.1): pass
        time.sleep(30)

service.Service = Slow
service.run_until_signalled(load_settings(environ={"REPLICATOR_TABLES": "a.b"}))
"""


class _Started:
    """A process, and what the kernel knows of it."""

    def __init__(self, process: subprocess.Popen[str], pid: int) -> None:
        self.process = process
        self.pid = pid

    def handles_sigterm(self) -> bool:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) & 1 << (signal.SIGTERM - 1))
        return False

    def has_loaded(self, library: str) -> bool:
        return library in Path(f"/proc/{self.pid}/maps").read_text()


@contextlib.contextmanager
def started(
    command: list[str], directory: Path, *, is_first_process: bool = False
) -> Iterator[_Started]:
    """Start a process; as the first of a namespace of its own, if that is asked."""
    if is_first_process and (os.geteuid() != 0 or shutil.which("unshare") is None):
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("only root may make a namespace of processes, with util-linux's unshare")
    unshare = ["unshare", "--fork", "--pid", "--kill-child"] if is_first_process else []
    environment = {k: v for k, v in os.environ.items() if not k.startswith("REPLICATOR_")}
    process = subprocess.Popen(
        [*unshare, *command],
        cwd=directory,
        env=environment | {"REPLICATOR_HTTP__LISTEN": f"127.0.0.1:{free_port()}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        pid = process.pid
        if is_first_process:
            children = Path(f"/proc/{pid}/task/{pid}/children")
            wait_until(lambda: children.read_text() != "", 20, "the first process")
            pid = int(children.read_text())
        yield _Started(process, pid)
    finally:
        process.kill()
        process.communicate()


def test_the_first_process_of_a_container_hears_sigterm_before_it_imports(tmp_path: Path) -> None:
    with started(_RUN, tmp_path, is_first_process=True) as begun:
        wait_until(begun.handles_sigterm, 20, "its handler")
        assert not begun.has_loaded("pydantic_core")

        os.kill(begun.pid, signal.SIGTERM)

        assert begun.process.wait(10) == 128 + signal.SIGTERM
        assert list(tmp_path.iterdir()) == []


def test_any_other_process_is_ended_by_the_signal_itself(tmp_path: Path) -> None:
    with started(_RUN, tmp_path) as begun:
        wait_until(lambda: begun.has_loaded("pydantic_core"), 20, "its imports")
        begun.process.terminate()

        assert begun.process.wait(10) == -signal.SIGTERM


def test_ctrl_c_during_the_imports_is_quiet(tmp_path: Path) -> None:
    # A shell that starts the tests in the background lets them ignore SIGINT.
    with started(["env", "--default-signal=INT", *_RUN], tmp_path) as begun:
        wait_until(lambda: begun.has_loaded("pydantic_core"), 20, "its imports")
        begun.process.send_signal(signal.SIGINT)
        _, said = begun.process.communicate(timeout=10)

        assert (begun.process.returncode, said) == (130, "")


@pytest.mark.parametrize("is_first_process", [True, False])
def test_a_second_signal_ends_the_process_at_once(
    *, is_first_process: bool, tmp_path: Path
) -> None:
    slow = [sys.executable, "-c", _SLOW]
    with started(slow, tmp_path, is_first_process=is_first_process) as begun:
        assert begun.process.stdout is not None
        assert begun.process.stdout.readline() == "runs\n"
        os.kill(begun.pid, signal.SIGTERM)
        # One order may come twice within a second: the next one is another order.
        with pytest.raises(subprocess.TimeoutExpired):
            begun.process.wait(1.2)
        os.kill(begun.pid, signal.SIGTERM)

        assert begun.process.wait(5) == 128 + signal.SIGTERM
