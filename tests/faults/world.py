"""What a fault run has: servers, the network between them, a replicator, writers, a recorder.

A `Lane` keeps its servers for many runs, one after the other; a `World` is one run's own tables,
virtual host, users, outbox and proxies on them.
"""

import contextlib
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from replicator_sandbox import EmbeddedRethinkDB
from replicator_sandbox.rabbitmq import PrivateRabbitMQ
from rethinkdb import errors as reql
from rethinkdb import r

from tests.faults.erlang import ErlangShell
from tests.faults.recorder import Recorder, refusing_above
from tests.faults.supervised import Supervised
from tests.faults.workload import Load, Writers
from tests.support.proxy import TcpProxy
from tests.support.rethink import RealRethinkDB, find_rethinkdb
from tests.support.servers import RethinkServer
from tests.support.wait import wait_until

_VOLUME_MB = 160
_PASSWORD = "fault-suite"


def find_faketime() -> str | None:
    """Return the library that lets a process live at another time."""
    return next(map(str, Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


class Lane:
    """Servers for many runs: a private RabbitMQ, and the best RethinkDB that there is."""

    def __init__(self, *, is_embedded: bool = False) -> None:
        self.has_real_rethinkdb = find_rethinkdb() is not None and not is_embedded
        self._stack = contextlib.ExitStack()
        self.directory = Path(tempfile.mkdtemp(prefix="replicator-faults-"))
        self.volume: Path | None = None

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _open(self) -> None:
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self._mount()
        self.rabbitmq = self._stack.enter_context(PrivateRabbitMQ())
        self.erlang = self._stack.enter_context(ErlangShell(self.rabbitmq))
        self.real: RealRethinkDB | None = None
        self.embedded: EmbeddedRethinkDB | None = None
        if self.has_real_rethinkdb:
            self.real = self._stack.enter_context(RealRethinkDB())
            self.server = RethinkServer(self.real.url)
        else:
            self.embedded = self._stack.enter_context(EmbeddedRethinkDB(poll_seconds=0.05))
            self.server = RethinkServer(self.embedded.url)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _mount(self) -> None:
        """Have a small volume that can be filled, where this user may mount one."""
        volume = self.directory / "volume"
        volume.mkdir()
        size = f"size={_VOLUME_MB}m"
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", size, "replicator-faults", str(volume)],
            capture_output=True,
            check=False,
        )
        if mounted.returncode == 0:
            self.volume = volume
            self._stack.callback(subprocess.run, ["umount", "-l", str(volume)], check=False)

    def abilities(self) -> set[str]:
        """What nemeses may ask for."""
        found = {"real rethinkdb"} if self.has_real_rethinkdb else {"embedded rethinkdb"}
        if self.volume is not None:
            found.add("a small volume")
        if find_faketime() is not None:
            found.add("libfaketime")
        return found


@dataclass
class Setup:
    """How one run is set up; a seed decides."""

    load: Load = field(default_factory=Load)
    settings: Mapping[str, str] = field(default_factory=dict)
    is_on_small_volume: bool = False
    has_fake_clock: bool = False
    max_waiting: int = 1500
    """So many messages the recorder's queue takes; then it refuses."""


class World:
    """One run's own part of the servers; everything that nemeses act upon."""

    def __init__(self, lane: Lane, setup: Setup, seed: int) -> None:
        self.lane = lane
        self.setup = setup
        self.name = f"f{uuid.uuid4().hex[:10]}"
        self._stack = contextlib.ExitStack()
        self._seed = seed
        self.faults: list[tuple[float, str]] = []
        self.outboxes_lost = 0

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # The databases' side.

    @property
    def server(self) -> RethinkServer:
        return self.lane.server

    @property
    def tables(self) -> Sequence[str]:
        return self.setup.load.tables

    @property
    def is_clock_true(self) -> bool:
        """Whether the replicator's wall clock is the writers'."""
        return not self.setup.has_fake_clock

    def create_table(self, connection: Any, table: str) -> None:
        r.db(self.name).table_create(table).run(connection)
        r.db(self.name).table(table).wait().run(connection)

    def grant(self, connection: Any, *, may_read: bool) -> None:
        """Let the replicator's user read this run's tables, or not."""
        r.db(self.name).grant(self.name, {"read": may_read}).run(connection)

    def connect(self) -> Any:
        return self.lane.server.connect(timeout=10)

    # The broker's side.

    def set_permission(self, pattern: str) -> None:
        """Let the replicator's user configure, write and read what matches."""
        self.lane.erlang.eval(
            f'rabbit_auth_backend_internal:set_permissions(<<"{self.name}">>, <<"{self.name}">>,'
            f' <<"{pattern}">>, <<"{pattern}">>, <<"{pattern}">>, <<"faults">>)'
        )

    def close_broker_connections(self) -> None:
        # One may end by itself before its turn comes.
        self.lane.erlang.eval(
            '[catch rabbit_networking:close_connection(P, "fault") || P <- '
            "rabbit_networking:connections()]"
        )

    def shift_clock(self, seconds: int) -> None:
        """Let the replicator's wall clock jump; monotonic time goes on."""
        self._clock_file.write_text(f"{seconds:+d}s\n")

    # Making it.

    def _open(self) -> None:
        lane, load = self.lane, self.setup.load
        directory = (lane.volume if self.setup.is_on_small_volume else None) or lane.directory
        self.directory = directory / self.name
        self.directory.mkdir()
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self._make_database()
        self._make_virtual_host()
        rethink_port = lane.server.port
        self.reql_proxy = self._stack.enter_context(TcpProxy(rethink_port))
        self.amqp_proxy = self._stack.enter_context(TcpProxy(lane.rabbitmq.port))
        self.recorder = self._stack.enter_context(
            Recorder([lane.rabbitmq.url_of(self.name)], refusing_above(self.setup.max_waiting))
        )
        self.writers = Writers(lane.server, self.name, load, self._seed)
        self.writers.fill()
        proxied = f"127.0.0.1:{self.amqp_proxy.port}/{self.name}"
        reql = f"127.0.0.1:{self.reql_proxy.port}"
        settings = {
            "TABLES": ",".join(f"{self.name}.{table}" for table in self.tables),
            "RETHINKDB__URL": f"rethinkdb://{self.name}:{_PASSWORD}@{reql}",
            "RABBITMQ__URL": f"amqp://{self.name}:{_PASSWORD}@{proxied}",
            "RABBITMQ__ON_UNROUTABLE": "hold",
            "RABBITMQ__HEARTBEAT": "4s",
            **self.setup.settings,
        }
        self._clock_file = self.directory / "clock"
        self.replicator = self._stack.enter_context(
            Supervised(self.directory, settings, self._environment())
        )

    def _environment(self) -> dict[str, str]:
        library = find_faketime() if self.setup.has_fake_clock else None
        if library is None:
            return {}
        self.shift_clock(0)
        return {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(self._clock_file),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_CACHE_DURATION": "1",
        }

    def _make_database(self) -> None:
        with self.connect() as connection:
            users = r.db("rethinkdb").table("users")
            users.insert({"id": self.name, "password": _PASSWORD}).run(connection)
            r.db_create(self.name).run(connection)
            self._stack.callback(self._drop_database)
            self.grant(connection, may_read=True)
            for table in self.setup.load.tables:
                self.create_table(connection, table)

    def _drop_database(self) -> None:
        with self.connect() as connection, contextlib.suppress(reql.ReqlOpFailedError):
            r.db_drop(self.name).run(connection)
            r.db("rethinkdb").table("users").get(self.name).delete().run(connection)

    def _make_virtual_host(self) -> None:
        erlang, name = self.lane.erlang, self.name
        erlang.eval(f'rabbit_vhost:add(<<"{name}">>, <<"faults">>)')
        self._stack.callback(erlang.eval, f'rabbit_vhost:delete(<<"{name}">>, <<"faults">>)')
        erlang.eval(
            f'rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"{_PASSWORD}">>, <<"faults">>)'
        )
        self._stack.callback(
            erlang.eval, f'rabbit_auth_backend_internal:delete_user(<<"{name}">>, <<"faults">>)'
        )
        self.set_permission(".*")
        erlang.eval(
            f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>,'
            ' <<".*">>, <<".*">>, <<".*">>, <<"faults">>)'
        )

    # The end of all faults.

    def heal(self) -> None:
        """Undo whatever a nemesis may have left: everything works from here on."""
        lane = self.lane
        lane.rabbitmq.resume()
        lane.rabbitmq.start()
        if lane.real is not None:
            if not lane.real.is_running:
                lane.real.start()
            lane.real.thaw()
        self.amqp_proxy.heal()
        self.reql_proxy.heal()
        lane.erlang.eval("vm_memory_monitor:set_vm_memory_high_watermark(0.4)")
        lane.erlang.eval('rabbit_disk_monitor:set_disk_free_limit("1MB")')
        self.set_permission(".*")
        wait_until(self._restore_tables, 30, "the tables to be there")
        self.recorder.heal()
        self.recorder.wait_until_attached()
        self.replicator.start()

    def _restore_tables(self) -> bool:
        try:
            with self.connect() as connection:
                self.grant(connection, may_read=True)
                there = set(r.db(self.name).table_list().run(connection))
                for table in self.setup.load.tables:
                    if table not in there:
                        self.create_table(connection, table)
                    r.db(self.name).table(table).wait().run(connection)
        except (reql.ReqlError, OSError):
            return False
        return True
