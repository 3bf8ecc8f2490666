"""No password is ever shown: with markers for passwords, in all places, through every error."""

import base64
import json
import logging
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from replicator_sandbox.rabbitmq import PrivateRabbitMQ
from rethinkdb import r

from replicator.composition import rabbitmq_broker, rethinkdb_server
from replicator.config import load_settings
from replicator.errors import ReplicatorError
from replicator.publisher.broker import connect as connect_to_rabbitmq
from replicator.source.connection import connect as connect_to_rethinkdb
from tests.support.consumer import Consumer
from tests.support.markers import IN_URL, MARKER, PASSWORD, assert_hidden
from tests.support.ports import free_port
from tests.support.replicator import ReplicatorProcess
from tests.support.servers import RethinkServer
from tests.support.tls import make_certificates
from tests.support.wait import wait_until


def test_the_marker_would_be_found() -> None:
    plain = base64.b64encode(f"\0user\0{PASSWORD}".encode())
    for place in (PASSWORD, IN_URL, json.dumps(PASSWORD), plain, repr(PASSWORD)):
        with pytest.raises(AssertionError, match="shows the password"):
            assert_hidden({"place": place})


_PAGES = ("status", "history", "metrics", "readyz", "livez")


class Started(ReplicatorProcess):
    """A service that may have arguments, and all that can be seen of it."""

    may_fork = False  # the system shows the arguments of a program only

    def page(self, path: str) -> bytes:
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=10) as reply:
                return bytes(reply.headers) + bytes(reply.read())
        except urllib.error.HTTPError as err:
            return bytes(err.headers) + err.read()

    def seen(self) -> dict[str, str | bytes]:
        """Return everything that others can see of it; not its environment, which is its user's."""
        process = Path(f"/proc/{self.pid}")
        files = {each.name: each.read_bytes() for each in self.outbox.parent.glob("outbox.db*")}
        assert {"outbox.db", "outbox.db-wal", "outbox.db.lock"} <= set(files)
        threads = [(each / "comm").read_bytes() for each in (process / "task").iterdir()]
        return (
            {f"/{name}": self.page(f"/{name}") for name in ("", *_PAGES)}
            | files
            | {
                "log": self.log(),
                "command line": (process / "cmdline").read_bytes(),
                "names of threads": b"".join(threads),
            }
        )

    def said_by(self, *commands: tuple[str, ...]) -> dict[str, str]:
        """Run commands; return what each said."""
        said = {}
        for command in commands:
            done = self.run(*command)
            said[" ".join(command[:2])] = done.stdout + done.stderr
            assert "Traceback" not in done.stderr
        return said


@pytest.fixture
def user(
    rethinkdb: RethinkServer, rabbitmq: PrivateRabbitMQ, connection: Any, database: str, vhost: str
) -> Iterator[str]:
    """A user of both servers whose password is the marker's."""
    del rethinkdb
    name = f"u{uuid.uuid4().hex[:12]}"
    users = r.db("rethinkdb").table("users")
    users.insert({"id": name, "password": PASSWORD}).run(connection)
    r.db(database).table("mytable").grant(name, {"read": True}).run(connection)
    rabbitmq.ctl("add_user", name, stdin=f"{PASSWORD}\n")
    rabbitmq.ctl("set_permissions", "-p", vhost.rpartition("/")[2], name, ".*", ".*", ".*")
    yield name
    users.get(name).delete().run(connection)
    rabbitmq.ctl("delete_user", name)


@pytest.fixture
def service(
    rethinkdb: RethinkServer, vhost: str, database: str, tmp_path: Path
) -> Iterator[Started]:
    """A service at the debug level, which tells most; not started, and nobody logs in yet."""
    process = Started(
        tmp_path,
        {
            "TABLES": f"{database}.mytable",
            "RETHINKDB__URL": rethinkdb.url,
            "RABBITMQ__URL": vhost,
            "LOG__LEVEL": "debug",
        },
    )
    yield process
    process.close()


def _give(service: Started, place: str, user: str, tmp_path: Path) -> None:
    """Put a user and the marker into the settings, in one of the places where they may be."""
    ours = f"{user}:{IN_URL}"
    of_source = service.settings["RETHINKDB__URL"].replace("admin", ours)
    of_broker = service.settings["RABBITMQ__URL"].replace("guest:guest", ours)
    if place == "environment":
        service.settings |= {"RETHINKDB__URL": of_source, "RABBITMQ__URL": of_broker}
    elif place == "flags":
        service.arguments = ("--rethinkdb", of_source, f"--rabbitmq={of_broker}")
    elif place == "settings file":
        del service.settings["RETHINKDB__URL"], service.settings["RABBITMQ__URL"]
        config = tmp_path / "replicator.toml"
        config.write_text(
            f'[rethinkdb]\nurl = "{of_source}"\n[rabbitmq]\nurl = "{of_broker}"\n', "utf-8"
        )
        service.settings["CONFIG"] = str(config)
    else:
        (tmp_path / "password").write_text(f"{PASSWORD}\n", "utf-8")
        service.settings |= {
            "RETHINKDB__URL": of_source.replace(f":{IN_URL}", ""),
            "RABBITMQ__URL": of_broker.replace(f":{IN_URL}", ""),
            "RETHINKDB__PASSWORD_FILE": str(tmp_path / "password"),
            "RABBITMQ__PASSWORD_FILE": str(tmp_path / "password"),
        }


_PLACES = ("environment", "flags", "settings file", "password file")


@pytest.mark.parametrize("place", _PLACES)
def test_a_service_that_works_shows_no_password(
    service: Started,
    user: str,
    rabbitmq: PrivateRabbitMQ,
    connection: Any,
    database: str,
    tmp_path: Path,
    place: str,
) -> None:
    with Consumer(service.settings["RABBITMQ__URL"]) as consumer:
        _give(service, place, user, tmp_path)
        service.start_and_wait()
        r.db(database).table("mytable").insert({"id": 1}).run(connection)
        consumer.wait_for_count(1)
    # Errors talk more than success does.
    rabbitmq.ctl("close_all_user_connections", user, "maintenance")
    wait_until(
        lambda: service.metric("replicator_reconnects_total", peer="rabbitmq") == 1, 30, "again"
    )
    r.db("rethinkdb").table("users").get(user).update({"password": "another"}).run(connection)

    seen = service.seen()
    arguments = str(seen.pop("command line"))
    assert_hidden(seen)
    assert_hidden(
        service.said_by(
            *(("check", *service.arguments), ("run", *service.arguments)),
            *(("status", "--json"), ("outbox", "list", "--json")),
        )
    )
    if place == "flags":
        assert MARKER in arguments  # every user of this host sees it: that is what is warned of
        (warning,) = [
            line
            for line in map(json.loads, service.log().splitlines())
            if "a password on the command line" in line["event"]
        ]
        assert "password_file" in warning["hint"]
        assert warning["flags"] == ["--rethinkdb", "--rabbitmq"]
    else:
        assert MARKER not in arguments
        assert "on the command line" not in service.log()
    assert service.terminate() == 0
    assert_hidden({"log": service.log()})


@pytest.mark.parametrize("place", _PLACES)
def test_a_wrong_password_is_not_shown(service: Started, place: str, tmp_path: Path) -> None:
    _give(service, place, "nobody", tmp_path)
    if place == "flags":
        url = service.arguments[2].partition("=")[2]
        listening = ("listen", "--rabbitmq", url)
    else:
        listening = ("listen",)

    said = service.said_by(
        ("run", *service.arguments), ("check", "--json", *service.arguments), listening
    )

    assert_hidden(said)
    assert "refuses" in said["run" if not service.arguments else "run --rethinkdb"]
    assert said["check --json"].count('"ok":false') == 2
    assert "refuses the user or password" in said[" ".join(listening[:2])]


def test_hosts_that_cannot_be_reached_show_no_password(service: Started, tmp_path: Path) -> None:
    _give(service, "environment", "somebody", tmp_path)
    for name in ("RETHINKDB__URL", "RABBITMQ__URL"):
        head, at, _ = service.settings[name].rpartition("@")
        service.settings[name] = f"{head}{at}127.0.0.1:{free_port()},no-such-host.invalid"
    service.start()
    wait_until(lambda: service.log().count("cannot be reached") >= 2, 60, "both losses")

    assert service.get("readyz")[0] == 503
    assert_hidden(service.seen())
    said = service.said_by(("check",), ("listen",), ("status", "--json"), ("outbox", "list"))
    assert_hidden(said)
    assert "cannot be reached" in said["listen"]


def test_a_refused_virtual_host_shows_no_password(
    service: Started, user: str, tmp_path: Path
) -> None:
    _give(service, "environment", user, tmp_path)
    service.settings["RABBITMQ__URL"] = service.settings["RABBITMQ__URL"].rpartition("/")[0] + "/no"

    said = service.said_by(("run",), ("check",), ("listen",))

    assert_hidden(said)
    assert all("refuses the virtual host" in text for text in said.values())


def test_failures_of_tls_show_no_password(service: Started, user: str, tmp_path: Path) -> None:
    _give(service, "environment", user, tmp_path)
    (tmp_path / "tls").mkdir()
    ca = make_certificates(tmp_path / "tls").ca
    service.settings |= {
        "RETHINKDB__TLS_CA_FILE": str(ca.cert),
        "RABBITMQ__URL": service.settings["RABBITMQ__URL"].replace("amqp://", "amqps://"),
        "RABBITMQ__TLS_CA_FILE": str(ca.cert),
    }
    said = service.said_by(("check",), ("listen",))
    # Files that are none: the library's own errors.
    for name in ("RETHINKDB__TLS_CA_FILE", "RABBITMQ__TLS_CA_FILE"):
        (tmp_path / name).write_text(f"{MARKER}\n")
        service.settings[name] = str(tmp_path / name)
    said |= {f"{key} again": text for key, text in service.said_by(("check",), ("run",)).items()}

    assert_hidden(said)
    assert said["check"].count("does not speak TLS") == 1
    assert "speaks AMQP without TLS" in said["check"]
    assert said["check again"].count("cannot be used") == 2


@pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning")
def test_the_drivers_own_lines_and_errors_have_no_password(
    rethinkdb: RethinkServer, vhost: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours = f"nobody:{IN_URL}"
    settings = load_settings(
        environ={},
        flags={
            "rethinkdb.url": f"rethinkdb://{ours}@{rethinkdb.host}:{rethinkdb.port}",
            "rabbitmq.url": vhost.replace("guest:guest", ours),
        },
        require_tables=False,
    )
    source, broker = rethinkdb_server(settings), rabbitmq_broker(settings)
    assert source.password == broker.password == PASSWORD
    shown = {"settings": repr(settings), "server": repr(source), "broker": str(broker)}
    # Whoever attaches a handler of his own hears the drivers.
    with caplog.at_level(logging.DEBUG):
        for connect, where in ((connect_to_rethinkdb, source), (connect_to_rabbitmq, broker)):
            with pytest.raises(ReplicatorError) as refused:
                connect(where)  # type: ignore[operator]
            error: BaseException | None = refused.value
            while error is not None:
                shown[f"{type(error).__name__} of {connect.__module__}"] = f"{error!r} {error}"
                error = error.__cause__ or error.__context__
    formatter = logging.Formatter()
    lines = [formatter.format(record) for record in caplog.records]
    assert any(record.name.startswith("pika") for record in caplog.records)
    assert_hidden(shown | {"log": "\n".join(lines)})
