"""A private RabbitMQ node for the demo and the tests: the real server, used by nobody else.

It has a node name, ports, epmd, cookie, configuration and data of its own, in a temporary directory
that is removed with it. It listens on the loopback interface only. It does not need root, and runs
as root too: Debian's ``rabbitmq-server`` command would change to the user ``rabbitmq`` there, so
the server's own script is started instead.
"""

import atexit
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import pika
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError

from replicator.errors import ReplicatorError, ServerMissing
from replicator_sandbox.host import RabbitMQPrograms, accepts, find_rabbitmq, free_port

START_SECONDS = 60.0
STOP_SECONDS = 30.0
LOGIN_SECONDS = 5.0
CTL_SECONDS = 60.0

_POLL_SECONDS = 0.05
_TAIL = 10
_DEFAULT_WATERMARK = "0.4"
# No spinning schedulers, and no more than a small machine has; distribution on loopback.
_ERL_ARGS = (
    "+S 2:2 +SDcpu 1:1 +SDio 2 +sbwt none +sbwtdcpu none +sbwtdio none"
    " -start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"
)


class RabbitMQFailed(ReplicatorError):
    """The private node did not start or stop, or refused a command."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The server's certificate, its key, and the CA for checking clients' certificates."""

    ca: Path
    cert: Path
    key: Path


def run_epmd(programs: RabbitMQPrograms, port: int) -> subprocess.Popen[bytes]:
    """Start the port mapper of nodes. In the foreground: one that a node starts stays for ever."""
    return subprocess.Popen(
        [*programs.of_erlang("epmd"), "-address", "127.0.0.1", "-port", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


class PrivateRabbitMQ:
    """One node: start, stop, kill, pause, and start again with its data kept.

    As a context manager it is started on entry; on exit its processes and its directory are gone.
    Not safe to share between threads.
    """

    def __init__(
        self,
        *,
        tls: TlsFiles | None = None,
        config: Mapping[str, str] | None = None,
        plugins: Sequence[str] = (),
        erl_args: str = "",
    ) -> None:
        """Prepare the node's directory; nothing runs yet.

        Args:
            tls: Listen with TLS too, at `amqps_url`.
            config: More lines of ``rabbitmq.conf``.
            plugins: Plugins to enable, such as ``rabbitmq_auth_mechanism_ssl``.
            erl_args: More arguments of the Erlang VM, such as ``+hmbs 4000000``.

        Raises:
            ServerMissing: RabbitMQ is not installed.
        """
        programs = find_rabbitmq()
        if programs is None:
            raise ServerMissing(
                "RabbitMQ's server is not installed here", hint="apt-get install rabbitmq-server"
            )
        self.programs = programs
        self.directory = Path(tempfile.mkdtemp(prefix="replicator-rabbitmq-"))
        self.port = free_port()
        self.tls_port = free_port() if tls is not None else None
        self._epmd_port = free_port()
        self._dist_port = free_port()
        self._ctl_port = free_port()
        self._node = f"replicator-{secrets.token_hex(4)}@localhost"
        self._beam: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._erl_args = f"{_ERL_ARGS} {erl_args}".rstrip()
        self._write_files(tls, config or {}, plugins)
        # A test run that ends by an exception elsewhere must not leave a server running.
        atexit.register(self.close)

    def __enter__(self) -> Self:
        """Start the node."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the node and remove what it wrote."""
        self.close()

    @property
    def url(self) -> str:
        """The URL of the virtual host ``/``, as the user guest."""
        return self.url_of("/")

    @property
    def amqps_url(self) -> str:
        """The same with TLS; the caller's certificate must be for ``localhost``."""
        assert self.tls_port is not None, "the node was made without tls"
        return f"amqps://guest:guest@localhost:{self.tls_port}/%2F"

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.directory / "log" / "rabbit.log"

    @cached_property
    def version(self) -> tuple[int, ...]:
        """Which RabbitMQ it is, such as ``(4, 0, 5)``.

        Not read from its log: that may get its first lines later than clients their first answer.
        """
        return tuple(map(int, self.ctl("version").strip().split(".")))

    @property
    def pid(self) -> int | None:
        """The server's process, while it runs."""
        return self._beam.pid if self.is_running and self._beam is not None else None

    @property
    def is_running(self) -> bool:
        """Whether the server's process is alive, even if paused."""
        return self._beam is not None and self._beam.poll() is None

    def url_of(self, virtual_host: str) -> str:
        """Return the URL of a virtual host, as the user guest."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{quote(virtual_host, safe='')}"

    # Life and death.

    def start(self) -> None:
        """Start the node, or start it again on its data; returns once clients can work with it.

        Raises:
            RabbitMQFailed: It ended, or was not ready in time; the message has the end of its log.
        """
        if self.is_running:
            return
        self._start_epmd()
        with (self.directory / "output.log").open("ab") as output:
            self._beam = subprocess.Popen(
                self.programs.script("rabbitmq-server"),
                env=self._environment(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Its own process group: kill() ends all of it, and Ctrl-C is ours alone.
                start_new_session=True,
            )
        if not self._wait(self._is_ready, START_SECONDS):
            self.kill()
            raise RabbitMQFailed(f"the private RabbitMQ did not start:\n{self._tail()}")

    def stop(self) -> None:
        """Stop the node in order, as an operator would; durable data is kept."""
        if self.is_running and self._beam is not None:
            self.resume()
            self._beam.terminate()  # the Erlang VM stops in order on SIGTERM
            try:
                self._beam.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired as err:
                self.kill()
                raise RabbitMQFailed(f"the private RabbitMQ did not stop:\n{self._tail()}") from err
        self.kill()

    def kill(self) -> None:
        """End the node at once (SIGKILL), as a crash would. Synced data is kept."""
        if self._beam is not None:
            self._signal(signal.SIGKILL)
            self._beam.wait()
            self._beam = None
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None

    def close(self) -> None:
        """End the node and remove its directory. Safe to repeat."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        atexit.unregister(self.close)

    def pause(self) -> None:
        """Stop the process (SIGSTOP): its sockets stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)
        if self._beam is not None:
            # Its threads stop one by one, and the last ones may still answer.
            os.waitid(os.P_PID, self._beam.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Continue a paused process."""
        self._signal(signal.SIGCONT)

    # An operator's commands. Each starts an Erlang VM of its own: about a second.

    def ctl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run ``rabbitmqctl`` against this node and return what it prints.

        Raises:
            RabbitMQFailed: The command failed, with this message, or gave no answer in time.
        """
        # By counting its arguments, the script of RabbitMQ 4.0 finds out whether a command reads
        # its standard input; with --quiet it would get none, and wait for it.
        quiet = ["--quiet"] if stdin is None else []
        with subprocess.Popen(
            [*self.programs.script("rabbitmqctl"), *quiet, *arguments],
            env=self._environment(),
            cwd=self.directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                out, errors = process.communicate(stdin or "", CTL_SECONDS)
            except BaseException as err:
                # The script's children too: an Erlang VM that is left behind keeps its port.
                os.killpg(process.pid, signal.SIGKILL)
                if not isinstance(err, subprocess.TimeoutExpired):
                    raise
                text = f"rabbitmqctl {arguments[0]} gave no answer in {CTL_SECONDS:g} seconds"
                raise RabbitMQFailed(text) from err
        if process.returncode != 0:
            raise RabbitMQFailed(f"rabbitmqctl {arguments[0]} failed: {(errors or out).strip()}")
        return out

    def block(self) -> None:
        """Raise the memory alarm: RabbitMQ stops reading from whoever publishes."""
        self.ctl("set_vm_memory_high_watermark", "0")

    def unblock(self) -> None:
        """Clear the memory alarm."""
        self.ctl("set_vm_memory_high_watermark", _DEFAULT_WATERMARK)

    def close_connections(self, reason: str) -> None:
        """Close every client's connection, as an operator does before an upgrade."""
        self.ctl("close_all_connections", "--global", reason)

    def add_vhost(self, name: str) -> str:
        """Make a virtual host that guest may use; returns its URL. Safe to repeat."""
        self.add_vhosts([name])
        return self.url_of(name)

    def add_vhosts(self, names: Sequence[str]) -> None:
        """Make virtual hosts that guest may use, by one command. Safe to repeat."""
        anything = {"user": "guest", "configure": ".*", "write": ".*", "read": ".*"}
        definitions = {
            "vhosts": [{"name": name} for name in names],
            "permissions": [{"vhost": name, **anything} for name in names],
        }
        # In a file: the script of RabbitMQ 4.0 gives this command no standard input.
        with tempfile.NamedTemporaryFile("w", dir=self.directory, suffix=".json") as file:
            json.dump(definitions, file)
            file.flush()
            self.ctl("import_definitions", file.name)

    def list_queues(self, virtual_host: str = "/") -> dict[str, int]:
        """Return the number of messages in each queue."""
        text = self.ctl(
            "list_queues", "--vhost", virtual_host, "--formatter", "json", "name", "messages"
        )
        return {queue["name"]: queue["messages"] for queue in json.loads(text)}

    # How it is set up.

    def _write_files(
        self, tls: TlsFiles | None, config: Mapping[str, str], plugins: Sequence[str]
    ) -> None:
        lines = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "loopback_users.guest": "true",
            "disk_free_limit.absolute": "1MB",
            "vm_memory_high_watermark.relative": _DEFAULT_WATERMARK,
        }
        if tls is not None:
            lines |= {
                "listeners.ssl.1": f"127.0.0.1:{self.tls_port}",
                "ssl_options.cacertfile": str(tls.ca),
                "ssl_options.certfile": str(tls.cert),
                "ssl_options.keyfile": str(tls.key),
                "ssl_options.verify": "verify_peer",
                "ssl_options.fail_if_no_peer_cert": "false",
            }
        lines |= config
        text = "".join(f"{key} = {value}\n" for key, value in lines.items())
        (self.directory / "rabbitmq.conf").write_text(text)
        (self.directory / "enabled_plugins").write_text(f"[{','.join(plugins)}].\n")
        (self.directory / "env.conf").touch()
        cookie = self.directory / ".erlang.cookie"
        cookie.touch(mode=0o600)
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        """Name every place that RabbitMQ would otherwise look for in ``/etc`` and ``/var``."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RABBITMQ_", "ERL_", "ELIXIR_", "NOTIFY_SOCKET"))
        }
        place = self.directory
        return inherited | {
            "HOME": str(place),  # of the Erlang cookie
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            # Several commands at a time; by default all nodes of a machine share eleven ports.
            "RABBITMQ_CTL_DIST_PORT_MIN": str(self._ctl_port),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(self._ctl_port + 10),
            "RABBITMQ_CONF_ENV_FILE": str(place / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(place / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(place / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(place / "advanced.config"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(place / "generated"),
            "RABBITMQ_SCHEMA_DIR": str(place / "schema"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(place / "enabled_plugins"),
            "RABBITMQ_PLUGINS_EXPAND_DIR": str(place / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(place / "data"),
            "RABBITMQ_PID_FILE": str(place / "rabbit.pid"),
            "RABBITMQ_LOG_BASE": str(place / "log"),
            "RABBITMQ_LOGS": str(self.log),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": self._erl_args,
            "RABBITMQ_CTL_ERL_ARGS": _ERL_ARGS,
            # The script becomes the Erlang VM instead of waiting for it: one process to signal.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _start_epmd(self) -> None:
        self._epmd = run_epmd(self.programs, self._epmd_port)
        if not self._wait(lambda: accepts(self._epmd_port), START_SECONDS):
            raise RabbitMQFailed("epmd did not start", hint="is the loopback interface up?")

    def _wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until the condition holds; give up after ``seconds`` or when the server is gone."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                return True
            if self._beam is not None and self._beam.poll() is not None:
                return False
            time.sleep(_POLL_SECONDS)
        return False

    def _is_ready(self) -> bool:
        """Return whether a client can log in and open a channel; pika does not wait for that."""
        if not accepts(self.port):
            return False
        parameters = pika.URLParameters(self.url)
        parameters.socket_timeout = parameters.stack_timeout = LOGIN_SECONDS
        try:
            with pika.BlockingConnection(parameters) as connection:
                connection.channel()
        except (AMQPError, AMQPConnectorException, OSError):
            # A node that joins its cluster again may accept connections without answering yet.
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        if self._beam is not None and self._beam.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._beam.pid, number)

    def _tail(self) -> str:
        """Return the log's last lines, and its first errors: the cause comes before crashes."""
        lines: list[str] = []
        for path in (self.log, self.directory / "output.log"):
            with contextlib.suppress(OSError):
                text = path.read_text(encoding="utf-8", errors="replace").splitlines()
                errors = [line for line in text[:-_TAIL] if "[error]" in line]
                lines += errors[:_TAIL] + text[-_TAIL:]
        return "\n".join(lines)
