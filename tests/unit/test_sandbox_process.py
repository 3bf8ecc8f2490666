"""The sandbox as a process of its own: what it prints, its control port, how it ends."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from replicator_sandbox import SandboxControl
from rethinkdb import r

from tests.support.rethink import driver_socket


@contextmanager
def _sandbox(*options: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Run the process; yield it with the lines that it printed up to ``ready``."""
    with subprocess.Popen(
        [sys.executable, "-m", "replicator_sandbox", "--port", "0", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if line.startswith("ready "):
                break
        try:
            yield process, lines
        finally:
            process.kill()


def _port(line: str) -> int:
    return int(line.rpartition(":")[2])


def test_it_says_what_it_is_for_before_it_is_ready() -> None:
    with _sandbox() as (process, lines):
        assert len(lines) == 2
        assert "for demos and tests only" in lines[0]
        assert lines[1].startswith("ready rethinkdb://admin@127.0.0.1:")
        with r.connect(host="127.0.0.1", port=_port(lines[1])) as connection:
            assert r.expr(1).run(connection) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_it_ends_when_its_parent_closes_standard_input() -> None:
    with _sandbox("--exit-with-parent") as (process, _):
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0


def test_faults_are_ordered_through_the_control_port() -> None:
    with _sandbox("--control-port", "0") as (_, lines):
        control_port, port = _port(lines[1]), _port(lines[2])
        with SandboxControl(control_port) as control:
            with r.connect(host="127.0.0.1", port=port) as connection:
                assert control.drop_connections() == 1
                assert driver_socket(connection).recv(1) == b""
            with r.connect(host="127.0.0.1", port=port) as again:
                control.delay(0.01)
                assert r.expr(1).run(again) == 1
            with pytest.raises(ValueError, match="no such fault"):
                control.switch("explode")
