"""Signals to a running service: an orderly end, whichever thread the kernel gives them to."""

import ctypes
import os
import signal
from pathlib import Path

import pytest

from tests.support.replicator import ReplicatorProcess


def _signal_thread(process: int, thread: int, number: signal.Signals) -> None:
    """Send a signal to one thread; the kernel may choose it, when the main one has another."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.tgkill(process, thread, int(number)) != 0:
        raise OSError(ctypes.get_errno(), "tgkill")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "tgkill"), reason="the C library has no tgkill")
def test_sigterm_is_heeded_whichever_thread_it_reaches(replicator: ReplicatorProcess) -> None:
    replicator.start_and_wait()
    threads = [int(path.name) for path in Path(f"/proc/{replicator.pid}/task").iterdir()]
    other = next(thread for thread in threads if thread != replicator.pid)

    _signal_thread(replicator.pid, other, signal.SIGTERM)

    assert replicator.wait(40) == 0
    assert "stopped" in replicator.log()


def test_sigterm_right_after_the_process_was_stopped_and_continued_is_heeded(
    replicator: ReplicatorProcess,
) -> None:
    replicator.start_and_wait()
    replicator.send(signal.SIGSTOP)
    os.kill(replicator.pid, signal.SIGCONT)

    assert replicator.terminate() == 0
