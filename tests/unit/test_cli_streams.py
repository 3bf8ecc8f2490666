"""What the commands do where standard streams are closed, full, or of another encoding."""

import errno
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from replicator.domain.model import Failure, Outcomes
from tests.support.feed_elements import initial
from tests.support.outbox import Outbox, outbox
from tests.support.ports import free_port
from tests.support.wait import wait_until

# Every case is a child of one process: to start one takes longer than what is tested. A child ends
# as every process of Python does, with the flushing of its streams.
_DRIVER = """
import io, json, os, sys
from replicator.cli.main import main
cases, directory = json.loads(sys.argv[1]), sys.argv[2]
for number, (streams, arguments) in enumerate(cases):
    if os.fork():
        _, status = os.wait()
        print(os.waitstatus_to_exitcode(status), flush=True)
        continue
    for fd, name in enumerate(["stdin", "stdout", "stderr"]):
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        to = streams.get(name, f"{directory}/{number}.{name}")
        if to == "closed":
            os.close(fd)
            setattr(sys, name, None)
        elif to == "gone":
            reading, writing = os.pipe()
            os.close(reading)
            os.dup2(writing, fd)
        else:
            os.dup2(os.open(to, flags), fd)
        if "encoding" in streams and name != "stdin":
            setattr(sys, name, io.TextIOWrapper(getattr(sys, name).buffer, streams["encoding"]))
    sys.argv[1:] = arguments
    main()
    sys.exit(99)
"""
COMMANDS = [
    ["outbox", "list"],
    ["outbox", "list", "--json"],
    ["outbox", "show", "1"],
    ["outbox", "show", "1", "--json"],
    ["outbox", "stats"],
    ["outbox", "export"],
    ["outbox", "redrive", "1", "--dry-run"],
    ["outbox", "park", "2", "--dry-run"],
    ["outbox", "discard", "1", "--dry-run", "--json"],
    ["outbox", "history", "--json"],
    ["feed", "list"],
    ["feed", "gaps"],
    ["feed", "resync", "db.t"],
    ["feed", "baseline", "db.t", "--dry-run"],
    ["status"],
    ["status", "--json"],
    ["status", "--watch", "--count", "1"],
    ["migrate"],
    ["check", "--table", "db.t"],
    ["--version"],
    ["--help"],
    ["outbox", "list", "--help"],
]
NO_OUTPUT = {("outbox", "history", "--json"): "", ("feed", "gaps"): "no gaps\n"}
SOME = [each for each in COMMANDS if each[0] in ("outbox", "--help")][:8:2]


class Ended(NamedTuple):
    status: int
    out: bytes
    err: str


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    """A parked entry of a document that ASCII cannot write, and a pending one."""
    with outbox(tmp_path) as made:
        documents = initial({"id": "ü€\x9b👋", "v": "\x1b[31m"}), initial({"id": 2})
        made.step(made.opened(), made.batch(*documents), made.ready())
        made.step(
            outcomes=[Outcomes(parked=[Failure(1, "too_large", "\x1b]0;it is\r\ntoo large")])]
        )
        yield made


def ended(box: Outbox, streams: dict[str, str], commands: Sequence[list[str]]) -> list[Ended]:
    nowhere = "127.0.0.1:1"
    directory = box.path.parent / "streams"
    directory.mkdir()
    cases = [[streams, command] for command in commands]
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, json.dumps(cases), str(directory)],
        capture_output=True,
        check=False,
        env={
            "PYTHONPATH": str(Path.cwd()),
            "REPLICATOR_HTTP__LISTEN": "off",
            "REPLICATOR_OUTBOX__URL": f"sqlite:///{box.path}",
            "REPLICATOR_RETHINKDB__URL": f"rethinkdb://{nowhere}",
            "REPLICATOR_RABBITMQ__URL": f"amqp://guest:guest@{nowhere}/",
        },
    )
    assert done.stderr == b""
    statuses = list(map(int, done.stdout.split()))
    assert len(statuses) == len(commands)

    def written(number: int, name: str) -> bytes:
        file = directory / f"{number}.{name}"
        return file.read_bytes() if file.exists() else b""

    return [
        Ended(status, written(number, "stdout"), written(number, "stderr").decode())
        for number, status in enumerate(statuses)
    ]


@pytest.mark.parametrize(
    ("to", "why"), [("/dev/full", errno.ENOSPC), ("closed", errno.EBADF), ("gone", None)]
)
def test_output_that_cannot_be_written_is_one_line_and_status_1(
    box: Outbox, to: str, why: int | None
) -> None:
    commands = COMMANDS if to == "/dev/full" else SOME
    for command, done in zip(commands, ended(box, {"stdout": to}, commands), strict=True):
        if tuple(command) in NO_OUTPUT:
            assert (done.status, done.err) == (0, NO_OUTPUT[tuple(command)])
        elif why is None:
            assert (done.status, done.err) == (1, ""), command
        else:
            text = f"error: the output cannot be written: {os.strerror(why)}\n"
            assert (done.status, done.err) == (1, text), command


@pytest.mark.parametrize("to", ["/dev/full", "closed", "gone"])
def test_a_standard_error_that_takes_nothing_changes_nothing_else(box: Outbox, to: str) -> None:
    wrong = [["outbox", "list", "--key", "none"], ["outbox", "show", "9"], ["run"], ["--nonsense"]]
    commands = [*SOME, *wrong]

    done = ended(box, {"stderr": to}, commands)

    assert [each.status for each in done[: -len(wrong)]] == [0] * (len(commands) - len(wrong))
    assert all(each.out for each in done[: len(SOME)])
    assert [each.status for each in done[-len(wrong) : -1]] == [0, 1, 2]
    assert done[-1].status in (1, 2)


def test_a_closed_standard_input_answers_no_question(box: Outbox) -> None:
    *done, asking = ended(box, {"stdin": "closed"}, [*SOME, ["outbox", "discard", "1"]])

    assert [(each.status, each.err) for each in done] == [(0, "")] * len(SOME)
    assert asking.status == 2
    assert "no terminal to ask at" in asking.err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16", "utf-8"])
def test_data_for_programs_is_utf_8_whatever_the_locale(box: Outbox, encoding: str) -> None:
    listed, shown, exported = ended(
        box,
        {"encoding": encoding},
        [["outbox", "list", "--json"], ["outbox", "show", "1", "--json"], ["outbox", "export"]],
    )

    for each in (listed, shown, exported):
        assert (each.status, each.err) == (0, "")
    keys = [json.loads(each.out.split(b"\n", 1)[0])["key"] for each in (listed, exported)]
    assert [*keys, json.loads(shown.out)["key"]] == ["ü€\x9b👋"] * 3


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_people_see_escapes_for_what_a_terminal_lacks_and_for_what_it_would_obey(
    box: Outbox, encoding: str
) -> None:
    commands = [["outbox", "list"], ["outbox", "show", "1"]]

    for each in ended(box, {"encoding": encoding}, commands):
        assert each.status == 0
        text = each.out.decode(encoding)
        assert r"\u20ac\u009b\U0001f44b" in text
        assert r"\u001b]0;it is\u000d\u000atoo large" in text
        assert not set(each.out) & {0x1B, 0x0D, 0x9B}


@pytest.mark.parametrize("streams", [{2}, {0, 1, 2}, set()], ids=["2", "all", "full"])
def test_a_service_goes_on_without_its_log(tmp_path: Path, streams: set[int]) -> None:
    port = free_port()
    closing = " ".join(f"{each}>&-" for each in streams) or "2>/dev/full"
    command = f'exec "$@" {closing}'
    environment: dict[str, Any] = {
        "PYTHONPATH": str(Path.cwd()),
        "REPLICATOR_TABLES": "db.t",
        "REPLICATOR_OUTBOX__URL": f"sqlite:///{tmp_path / 'outbox.db'}",
        "REPLICATOR_RETHINKDB__URL": "rethinkdb://127.0.0.1:1",
        "REPLICATOR_RABBITMQ__URL": "amqp://guest:guest@127.0.0.1:1/",
        "REPLICATOR_HTTP__LISTEN": f"127.0.0.1:{port}",
    }
    with subprocess.Popen(
        ["sh", "-c", command, "sh", sys.executable, "-m", "replicator", "run"], env=environment
    ) as service:
        try:
            wait_until(lambda: is_alive(port), 60)
            # No file of the service has the number of a standard stream.
            for number in (0, 1, 2):
                target = (Path(f"/proc/{service.pid}/fd") / str(number)).readlink()
                assert "outbox" not in str(target)
                assert number not in streams or str(target) == os.devnull
            service.send_signal(signal.SIGTERM)
            assert service.wait(60) == 0
        finally:
            service.kill()


def is_alive(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
