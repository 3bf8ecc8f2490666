"""The commands of docs/permissions.md give just enough: all works, and one right less does not."""

import json
import re
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import pytest
from replicator_sandbox.rabbitmq import PrivateRabbitMQ
from rethinkdb import r
from rethinkdb.errors import ReqlPermissionError

from tests.contract.eventually import denied
from tests.support.consumer import Consumer
from tests.support.replicator import ReplicatorProcess, last_words
from tests.support.servers import RethinkServer
from tests.support.wait import wait_until

_PAGE = (Path(__file__).parents[2] / "docs" / "permissions.md").read_text(encoding="utf-8")
_PASSWORD = "choose-one"
_QUEUES = [{"name": "search-index", "type": "classic", "bindings": ["#"]}]


def documented(name: str) -> list[str]:
    """Return the commands of the page's block that bears this name."""
    (block,) = re.findall(rf"<!-- {name} -->\n```\w+\n(.*?)\n```", _PAGE, re.DOTALL)
    return str(block).splitlines()


@dataclass
class Patterns:
    """What ``set_permissions`` gives."""

    configure: str
    write: str
    read: str

    @classmethod
    def of(cls, name: str) -> "Patterns":
        (command,) = documented(name)
        program, verb, flag, vhost, user, *patterns = shlex.split(command)
        assert [program, verb, flag, vhost, user] == [
            *("rabbitmqctl", "set_permissions", "-p", "shop", "replicator")
        ]
        return cls(*patterns)


class Accounts:
    """The page's user on both servers, under a name of the test's own."""

    def __init__(self, replicator: ReplicatorProcess, rabbitmq: PrivateRabbitMQ) -> None:
        self.name = f"u{uuid.uuid4().hex[:12]}"
        self.replicator = replicator
        self.admin_url = replicator.settings["RABBITMQ__URL"]
        self._rabbitmq = rabbitmq

    def grant_by_python(self, block: str, admin: Any, database: str) -> None:
        for line in documented(block):
            words = line.replace('"replicator"', repr(self.name)).replace('"shop"', repr(database))
            words = words.replace('"orders"', '"mytable"')
            exec(words, {"r": r, "admin": admin})  # the page is ours

    def add_to_rabbitmq(self) -> None:
        (line,) = documented("rabbitmq-user")
        left, _, right = line.partition(" | ")
        typed = subprocess.run(shlex.split(left), capture_output=True, text=True, check=True)
        program, *arguments = shlex.split(right.replace("replicator", self.name))
        assert program == "rabbitmqctl"
        self._rabbitmq.ctl(*arguments, stdin=typed.stdout)

    def allow(self, patterns: Patterns) -> None:
        vhost = self.admin_url.rpartition("/")[2]
        self._rabbitmq.ctl(
            *("set_permissions", "-p", vhost, self.name),
            *(patterns.configure, patterns.write, patterns.read),
        )

    def log_in(self, rethinkdb: RethinkServer) -> None:
        where = f"{rethinkdb.host}:{rethinkdb.port}"
        mine = f"{self.name}:{_PASSWORD}"
        self.replicator.settings |= {
            "RETHINKDB__URL": f"rethinkdb://{mine}@{where}",
            "RABBITMQ__URL": self.admin_url.replace("guest:guest", mine),
        }

    def wrong(self) -> tuple[int, dict[str, str]]:
        """Return the preflight's status and what is wrong, by part."""
        done = self.replicator.run("check", "--json")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return done.returncode, {each["part"]: each["message"] for each in lines if not each["ok"]}

    def said(self, part: str) -> str:
        done = self.replicator.run("check", "--json")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        (message,) = [each["message"] for each in lines if each["part"] == part]
        return str(message)

    def refusal(self) -> str:
        """Run the service, which must end at once with status 2; return what it says."""
        done = self.replicator.run("run")
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        return "".join(last_words(done.stderr))


@pytest.fixture
def accounts(
    replicator: ReplicatorProcess,
    rethinkdb: RethinkServer,
    rabbitmq: PrivateRabbitMQ,
    connection: Any,
    database: str,
) -> Iterator[Accounts]:
    """The users of the page, with RethinkDB's grants and none of RabbitMQ's yet."""
    made = Accounts(replicator, rabbitmq)
    made.grant_by_python("rethinkdb", connection, database)
    made.add_to_rabbitmq()
    made.log_in(rethinkdb)
    yield made
    replicator.close()
    r.db("rethinkdb").table("users").get(made.name).delete().run(connection)
    rabbitmq.ctl("delete_user", made.name)


def _bind(url: str, queue: str) -> None:
    """Do what an operator does beforehand: an exchange, and a queue on it."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.exchange_declare("rethinkdb", "topic", durable=True)
        channel.queue_declare(queue, durable=True)
        channel.queue_bind(queue, "rethinkdb", "#")


def _give_an_exchange(accounts: Accounts, database: str, directory: Path) -> str:
    path = directory / "replicator.toml"
    path.write_text(f'[[tables]]\nname = "{database}.mytable"\nexchange = "shop-orders"\n')
    accounts.replicator.settings["CONFIG"] = str(path)
    return "shop-orders"


def _assert_it_replicates(
    accounts: Accounts, admin: Any, database: str, exchange: str = "rethinkdb"
) -> None:
    """Run the whole service; a change gets through, and nothing is said of permissions."""
    replicator = accounts.replicator
    with Consumer(accounts.admin_url, exchange=exchange) as consumer:
        replicator.start_and_wait()
        r.db(database).table("mytable").insert({"id": 1}).run(admin)
        assert consumer.wait_for_count(1)[0].new_val == {"id": 1}
    assert replicator.terminate() == 0
    assert "fence" not in replicator.log()
    assert "permission" not in replicator.log()


@pytest.mark.parametrize(
    "case",
    ["rabbitmq-exchange", "rabbitmq-queues", "rabbitmq-beforehand", "rabbitmq-exchanges"],
)
def test_what_the_page_gives_is_enough(
    accounts: Accounts, connection: Any, database: str, case: str, tmp_path: Path
) -> None:
    accounts.allow(Patterns.of(case))
    exchange = "rethinkdb"
    if case == "rabbitmq-exchanges":
        exchange = _give_an_exchange(accounts, database, tmp_path)
    if case == "rabbitmq-queues":
        accounts.replicator.settings["RABBITMQ__QUEUES"] = json.dumps(_QUEUES)
    if case == "rabbitmq-beforehand":
        _bind(accounts.admin_url, "theirs")

    assert accounts.wrong() == (0, {})
    assert accounts.said("fence") == "may be declared"
    _assert_it_replicates(accounts, connection, database, exchange)
    # Once more over what the first run has made.
    assert accounts.wrong() == (0, {})


def test_without_read_on_the_table_there_is_nothing_to_do(
    accounts: Accounts, connection: Any, database: str
) -> None:
    accounts.allow(Patterns.of("rabbitmq-exchange"))
    table = r.db(database).table("mytable")
    table.grant(accounts.name, {"read": None}).run(connection)

    status, wrong = accounts.wrong()

    assert status == 2
    assert f"no permission to read {database}.mytable" in wrong[f"table {database}.mytable"]
    assert f"no permission to read {database}.mytable" in accounts.refusal()


def test_rethinkdb_s_user_may_do_nothing_else(
    accounts: Accounts, rethinkdb: RethinkServer, connection: Any, database: str
) -> None:
    r.db(database).table_create("other").run(connection)
    r.db(database).table("other").wait().run(connection)
    with rethinkdb.connect(user=accounts.name, password=_PASSWORD) as mine:
        for query in (
            r.db(database).table("mytable").insert({"id": 1}),
            r.db(database).table("mytable").config(),
            r.db(database).table("other").get(1),
            r.db(database).table_create("third"),
            r.db("rethinkdb").table("users").get("admin"),
        ):
            with pytest.raises(ReqlPermissionError):
                query.run(mine)
        assert r.db(database).table("mytable").get(1).run(mine) is None


@pytest.fixture
def whole(accounts: Accounts, connection: Any, database: str) -> Accounts:
    """The page's user of a whole database, without what the table's block gave."""
    accounts.allow(Patterns.of("rabbitmq-exchange"))
    r.db(database).table("mytable").grant(accounts.name, {"read": None}).run(connection)
    accounts.grant_by_python("rethinkdb-database", connection, database)
    accounts.replicator.settings["TABLES"] = f"{database}.*"
    return accounts


def test_a_whole_database_takes_one_system_table_and_no_more(
    whole: Accounts, rethinkdb: RethinkServer, connection: Any, database: str
) -> None:
    system = r.db("rethinkdb")
    with rethinkdb.connect(user=whole.name, password=_PASSWORD) as mine:
        found = system.table("table_config").filter({"db": database}).run(mine)
        assert [each["name"] for each in found] == ["mytable"]
        for name in ("users", "permissions", "logs", "jobs", "server_config", "table_status"):
            denied(lambda name=name: system.table(name).limit(1).run(mine))
    assert whole.wrong() == (0, {})
    assert whole.said(f"tables {database}.*") == "1 now: mytable"
    _assert_it_replicates(whole, connection, database)


def test_a_table_that_is_created_later_needs_no_further_right(
    whole: Accounts, connection: Any, database: str
) -> None:
    with Consumer(whole.admin_url) as consumer:
        whole.replicator.start_and_wait()
        r.db(database).table_create("later").run(connection)
        r.db(database).table("later").wait().run(connection)
        r.db(database).table("later").insert({"id": 1}).run(connection)
        assert consumer.wait_for_count(1, 40)[0].routing_key == "later.create"
    assert "permission" not in whole.replicator.log()


def test_without_read_on_table_config_no_table_can_be_found(
    whole: Accounts, connection: Any, database: str
) -> None:
    config = r.db("rethinkdb").table("table_config")
    config.grant(whole.name, {"read": None}).run(connection)

    status, wrong = whole.wrong()

    assert (status, set(wrong)) == (2, {f"tables {database}.*"})
    said = "no permission to read rethinkdb.table_config"
    assert said in wrong[f"tables {database}.*"]
    refusal = whole.refusal()
    assert said in refusal
    assert "grant it: r.db('rethinkdb').table('table_config').grant" in refusal


def test_a_table_of_the_database_that_may_not_be_read_stops_no_other(
    whole: Accounts, connection: Any, database: str
) -> None:
    r.db(database).table_create("secret").run(connection)
    r.db(database).table("secret").wait().run(connection)
    r.db(database).table("secret").grant(whole.name, {"read": False}).run(connection)

    status, wrong = whole.wrong()
    assert (status, set(wrong)) == (2, {f"table {database}.secret"})
    with Consumer(whole.admin_url) as consumer:
        whole.replicator.start()
        r.db(database).table("mytable").insert({"id": 1}).run(connection)
        assert consumer.wait_for_count(1, 40)[0].new_val == {"id": 1}
    ready, facts = whole.replicator.get("readyz")
    (cause,) = facts["not_ready"]
    assert (ready, cause["table"]) == (503, f"{database}.secret")
    assert "no permission to read" in str(cause["error"])
    r.db(database).table("secret").grant(whole.name, {"read": None}).run(connection)
    whole.replicator.wait_until_ready(90)


def test_each_right_on_the_exchange_is_needed(accounts: Accounts) -> None:
    page = Patterns.of("rabbitmq-exchange")
    assert set(accounts.wrong()[1]) == {"rabbitmq"}  # no right at all in the virtual host
    assert "refuses the virtual host" in accounts.refusal()

    accounts.allow(Patterns("^rethinkdb\\.replicator\\..*$", page.write, page.read))
    status, wrong = accounts.wrong()
    assert (status, set(wrong)) == (2, {"exchange rethinkdb"})
    assert "gives no permission" in wrong["exchange rethinkdb"]
    assert "does not exist, and this user may not declare it" in accounts.refusal()

    accounts.allow(Patterns(page.configure, "^$", page.read))
    for _ in range(2):  # before the exchange is there, and after `run` has made it
        status, wrong = accounts.wrong()
        assert (status, set(wrong)) == (2, {"exchange rethinkdb"})
        assert "gives no permission" in wrong["exchange rethinkdb"]
        assert "gives no permission" in accounts.refusal()


@pytest.mark.parametrize("less", ["configure", "write"])
def test_each_right_on_the_exchange_of_a_table_is_needed(
    accounts: Accounts, database: str, tmp_path: Path, less: str
) -> None:
    _give_an_exchange(accounts, database, tmp_path)
    patterns, without = Patterns.of("rabbitmq-exchanges"), Patterns.of("rabbitmq-exchange")
    setattr(patterns, less, getattr(without, less))
    accounts.allow(patterns)

    status, wrong = accounts.wrong()

    assert (status, set(wrong)) == (2, {"exchange shop-orders"})
    assert "gives no permission" in wrong["exchange shop-orders"]
    refusal = accounts.refusal()
    said = {"configure": "this user may not declare it", "write": "gives no permission"}
    assert said[less] in refusal
    assert "shop-orders" in refusal


@pytest.mark.parametrize("less", ["configure", "write", "read"])
def test_each_right_on_a_queue_is_needed(accounts: Accounts, less: str) -> None:
    accounts.replicator.settings["RABBITMQ__QUEUES"] = json.dumps(_QUEUES)
    patterns, without = Patterns.of("rabbitmq-queues"), Patterns.of("rabbitmq-exchange")
    setattr(patterns, less, getattr(without, less))
    accounts.allow(patterns)

    for _ in range(2):  # before the queue is there, and after `run` has made what it could
        status, wrong = accounts.wrong()
        assert (status, set(wrong)) == (2, {"queue search-index"})
        assert "gives no permission" in wrong["queue search-index"]
        assert "gives no permission" in accounts.refusal()


def test_without_the_fence_s_right_it_works_and_says_so(
    accounts: Accounts, connection: Any, database: str
) -> None:
    page = Patterns.of("rabbitmq-beforehand")
    _bind(accounts.admin_url, "theirs")
    accounts.allow(Patterns("^$", page.write, page.read))

    assert accounts.wrong() == (0, {})
    assert "publishing would go without a fence" in accounts.said("fence")
    replicator = accounts.replicator
    with Consumer(accounts.admin_url) as consumer:
        replicator.start_and_wait()
        r.db(database).table("mytable").insert({"id": 1}).run(connection)
        assert consumer.wait_for_count(1)[0].new_val == {"id": 1}
    assert "publishing without a fence" in replicator.log()


def test_a_write_right_less_for_an_exchange_of_others_is_refused(accounts: Accounts) -> None:
    page = Patterns.of("rabbitmq-beforehand")
    _bind(accounts.admin_url, "theirs")
    accounts.allow(Patterns(page.configure, "^$", page.read))

    status, wrong = accounts.wrong()

    assert (status, set(wrong)) == (2, {"exchange rethinkdb"})
    assert "gives no permission" in accounts.refusal()


def test_a_right_that_is_taken_away_later_makes_it_not_ready(
    accounts: Accounts, rabbitmq: PrivateRabbitMQ
) -> None:
    page = Patterns.of("rabbitmq-exchange")
    accounts.allow(page)
    accounts.replicator.start_and_wait()
    accounts.allow(Patterns(page.configure, "^$", page.read))
    rabbitmq.ctl("clear_permissions", "-p", accounts.admin_url.rpartition("/")[2], accounts.name)
    rabbitmq.ctl("close_all_user_connections", accounts.name, "rights were taken away")

    wait_until(lambda: not accounts.replicator.is_ready(), 30, "it is not ready")
    wait_until(
        lambda: "refuses the virtual host" in str(accounts.replicator.status()["broker"]["error"]),
        30,
        "the reason",
    )
