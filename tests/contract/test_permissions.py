"""What a user may do, and how a refusal looks."""

from typing import Any

import pytest
from rethinkdb import r
from rethinkdb.errors import ReqlInternalError, ReqlOpFailedError, ReqlPermissionError

from tests.contract.conftest import Connect
from tests.contract.eventually import allowed, denied
from tests.contract.feeds import EVERYTHING, is_ready, take_until

_NO_READ = "does not have the required `read` permission"


@pytest.fixture
def guest(connect: Connect, user: str) -> Any:
    """Connect as a user who was granted nothing yet."""
    return connect(user=user, password="secret")


def test_nothing_is_allowed_at_first(guest: Any, table: Any) -> None:
    with pytest.raises(ReqlPermissionError, match=_NO_READ):
        table.get(1).run(guest)
    with pytest.raises(ReqlPermissionError, match=_NO_READ):
        table.info().run(guest)
    with pytest.raises(ReqlPermissionError, match="required `write` permission"):
        table.insert({"id": 1}).run(guest)
    with pytest.raises(ReqlPermissionError, match="required `config` permission"):
        table.config().run(guest)
    with pytest.raises(ReqlPermissionError, match="required `config` permission"):
        r.db_create("no").run(guest)


def test_a_denied_feed_is_an_internal_error(guest: Any, table: Any) -> None:
    for feed in (table.changes(), table.get(1).changes()):
        with pytest.raises(ReqlInternalError, match=f"Unexpected exception: .*{_NO_READ}"):
            feed.run(guest)


def test_read_is_enough_for_a_feed_with_a_snapshot(
    conn: Any, guest: Any, table: Any, user: str
) -> None:
    table.insert({"id": 1}).run(conn)
    table.grant(user, {"read": True}).run(conn)
    allowed(lambda: table.get(1).run(guest))
    feed = table.changes(**EVERYTHING).run(guest)
    assert len(take_until(feed, is_ready)) == 3
    assert table.info().run(guest)["name"] == "things"
    assert table.status().run(guest)["status"]["all_replicas_ready"] is True
    assert table.wait().run(guest) == {"ready": 1}


def test_names_are_listed_without_any_permission(guest: Any, table: Any, db_name: str) -> None:
    assert db_name in r.db_list().run(guest)
    assert r.db(db_name).table_list().run(guest) == ["things"]
    assert table.wait().run(guest) == {"ready": 1}


@pytest.mark.parametrize("place", ["database", "global"])
def test_a_wider_grant_holds_for_the_table(
    conn: Any, guest: Any, table: Any, user: str, db_name: str, place: str
) -> None:
    target = r.db(db_name) if place == "database" else r
    granted = target.grant(user, {"read": True}).run(conn)
    assert granted["granted"] == 1
    assert granted["permissions_changes"] == [{"old_val": None, "new_val": {"read": True}}]
    assert allowed(lambda: table.get(1).run(guest)) is None
    table.grant(user, {"read": False}).run(conn)
    assert _NO_READ in denied(lambda: table.get(1).run(guest))


def test_a_global_grant_does_not_open_system_tables(
    conn: Any, guest: Any, table: Any, user: str
) -> None:
    r.grant(user, {"read": True}).run(conn)
    config = r.db("rethinkdb").table("table_config")
    with pytest.raises(ReqlPermissionError, match=_NO_READ):
        config.run(guest)
    config.grant(user, {"read": True}).run(conn)
    rows = list(allowed(lambda: config.run(guest)))
    assert table.info().run(conn)["id"] in [row["id"] for row in rows]
    assert config.changes(include_initial=True).run(guest).next(wait=10)["new_val"]


def test_grants_are_rows_of_permissions(conn: Any, table: Any, user: str) -> None:
    table.grant(user, {"read": True, "write": False}).run(conn)
    rows = list(r.db("rethinkdb").table("permissions").filter({"user": user}).run(conn))
    assert len(rows) == 1
    assert rows[0]["table"] == "things"
    assert rows[0]["permissions"] == {"read": True, "write": False}


@pytest.mark.parametrize(
    ("name", "permissions", "message"),
    [
        ("nobody", {"read": True}, "User `nobody` not found"),
        ("admin", {"read": True}, "The permissions of the user `admin` can't be modified"),
        (None, {"fly": True}, r"Unexpected key\(s\) `fly`"),
        (None, {"read": 5}, "Expected a boolean or null for `read`, got 5"),
    ],
)
def test_senseless_grants_fail(
    conn: Any, table: Any, user: str, name: str | None, permissions: Any, message: str
) -> None:
    with pytest.raises(ReqlOpFailedError, match=message):
        table.grant(name or user, permissions).run(conn)


def test_users_are_rows_whose_passwords_are_hidden(conn: Any, user: str) -> None:
    users = r.db("rethinkdb").table("users")
    assert users.get(user).run(conn) == {"id": user, "password": True}
    assert users.get("admin").run(conn)["id"] == "admin"
    refused = users.insert({"id": "x"}).run(conn)
    assert refused["first_error"] == "Expected a field named `password`."
    assert users.get("admin").delete().run(conn)["first_error"] == (
        "The user `admin` can't be deleted."
    )


def test_the_connection_of_a_deleted_user_may_do_nothing(
    conn: Any, connect: Connect, table: Any
) -> None:
    users = r.db("rethinkdb").table("users")
    users.insert({"id": "short_lived", "password": "x"}).run(conn)
    table.grant("short_lived", {"read": True}).run(conn)
    guest = allowed(lambda: connect(user="short_lived", password="x"))
    assert allowed(lambda: table.get(1).run(guest)) is None
    users.get("short_lived").delete().run(conn)
    assert _NO_READ in denied(lambda: table.get(1).run(guest))
