"""Databases, tables, and reading them: db, table, get, get_all, between, admin, grant."""

import re
from typing import Any

from replicator_sandbox.accounts import Place
from replicator_sandbox.datum import pretty as pretty_datum
from replicator_sandbox.datum import type_name
from replicator_sandbox.keys import HIGHEST, LOWEST, key_bytes
from replicator_sandbox.reql_errors import logic, missing, op_failed
from replicator_sandbox.spans import KeyRange, KeySet
from replicator_sandbox.storage import SYSTEM_DATABASE, SYSTEM_DATABASE_ID
from replicator_sandbox.table_access import AnyTable, SystemTableAccess, UserTable
from replicator_sandbox.terms.core import Call, term
from replicator_sandbox.terms.kinds import DatabaseValue, RowValue, Sequence, Value, is_table, scan
from replicator_sandbox.terms.sequences import no_index
from replicator_sandbox.terms.values import MINVAL, Extremum

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_DURABILITIES = ("hard", "soft")


def _name(call: Call, index: int, kind: str) -> str:
    name = call.string(index)
    if not _NAME.fullmatch(name):
        raise call.at(
            index, logic(f"{kind} name `{name}` invalid (Use A-Z, a-z, 0-9, _ and - only).")
        )
    return name


def _default_database(call: Call) -> str:
    chosen = call.query.option("db")
    return chosen.name if isinstance(chosen, DatabaseValue) else "test"


def _database(call: Call, index: int) -> str:
    value = call.value(index)
    if not isinstance(value, DatabaseValue):
        raise call.at(index, logic("Expected type DATABASE but found DATUM."))
    return value.name


def _place(call: Call, database: str) -> Place:
    if database == SYSTEM_DATABASE:
        return (SYSTEM_DATABASE_ID,)
    return (call.query.engine.catalog.database(database).id,)


def _require(call: Call, permission: str, place: Place) -> None:
    call.query.engine.accounts.require(call.query.user, permission, place)


def table_argument(call: Call, index: int) -> AnyTable:
    """Return argument ``index``, which must be a table."""
    value = call.value(index)
    if not is_table(value):
        raise call.at(index, logic("Expected type TABLE but found another value."))
    return value  # type: ignore[no-any-return]  # Value is any; is_table has just checked it


@term(14, "db", 1)
def db(call: Call) -> Value:
    """Return a database that exists."""
    name = _name(call, 0, "Database")
    if name != SYSTEM_DATABASE:
        call.query.engine.catalog.database(name)
    return DatabaseValue(name)


@term(15, "table", 1, 2, options="read_mode identifier_format use_outdated")
def table(call: Call) -> Value:
    """Return a table that exists."""
    database = _database(call, 0) if len(call) == 2 else _default_database(call)
    name = _name(call, len(call) - 1, "Table")
    if call.option("identifier_format") not in (None, "name"):
        raise logic("The sandbox names databases and servers by name only.")
    engine, user = call.query.engine, call.query.user
    if database == SYSTEM_DATABASE:
        found = engine.system.by_name.get(name)
        if found is None:
            raise op_failed(f"Table `{database}.{name}` does not exist.")
        return SystemTableAccess(engine.accounts, user, found)
    return UserTable(engine.accounts, user, engine.catalog.table(database, name))


@term(57, "db_create", 1)
def db_create(call: Call) -> Value:
    """Create a database."""
    name = _name(call, 0, "Database")
    _require(call, "config", ())
    made = call.query.engine.catalog.create_database(name)
    return {
        "config_changes": [{"new_val": made.config(), "old_val": None}],
        "dbs_created": 1,
    }


@term(58, "db_drop", 1)
def db_drop(call: Call) -> Value:
    """Drop a database and its tables."""
    name = _name(call, 0, "Database")
    _require(call, "config", _place(call, name))
    dropped = call.query.engine.catalog.drop_database(name)
    return {
        "config_changes": [{"new_val": None, "old_val": dropped.config()}],
        "dbs_dropped": 1,
        "tables_dropped": len(dropped.tables),
    }


@term(59, "db_list")
def db_list(call: Call) -> Value:
    """Return the names of all databases."""
    return sorted([*call.query.engine.catalog.databases, SYSTEM_DATABASE])


def _database_and_name(call: Call) -> tuple[str, str]:
    database = _database(call, 0) if len(call) == 2 else _default_database(call)
    return database, _name(call, len(call) - 1, "Table")


@term(60, "table_create", 1, 2, "primary_key durability shards replicas primary_replica_tag")
def table_create(call: Call) -> Value:
    """Create a table."""
    database, name = _database_and_name(call)
    primary_key = call.option("primary_key") if call.has_option("primary_key") else "id"
    if not isinstance(primary_key, str):
        raise call.at(
            "primary_key",
            logic(f"Expected type STRING but found {type_name(primary_key)}."),
        )
    durability = _durability(call)
    shards = _shards(call)
    _require(call, "config", _place(call, database))
    made = call.query.engine.catalog.create_table(
        database, name, primary_key, durability or "hard", shards or 1
    )
    return {
        "config_changes": [{"new_val": made.config(), "old_val": None}],
        "tables_created": 1,
    }


def _durability(call: Call) -> str | None:
    durability = call.option("durability")
    if durability is not None and durability not in _DURABILITIES:
        raise call.at(
            "durability",
            logic(
                f'Durability option `{durability}` unrecognized (options are "hard" and "soft").'
            ),
        )
    return durability  # type: ignore[no-any-return]  # a datum is any; it is a known text here


def _shards(call: Call) -> int | None:
    shards, replicas = call.option("shards"), call.option("replicas")
    if shards is not None and shards < 1:
        raise call.at("shards", logic("Every table must have at least one shard."))
    if isinstance(replicas, int) and replicas > 1:
        raise op_failed(
            f"Can't put {replicas} replicas on servers with the tag `default` because there are "
            "only 1 servers with the tag `default`. It's impossible to have more replicas of "
            "the data than there are servers."
        )
    return None if shards is None else int(shards)


@term(61, "table_drop", 1, 2)
def table_drop(call: Call) -> Value:
    """Drop a table."""
    database, name = _database_and_name(call)
    catalog = call.query.engine.catalog
    if database != SYSTEM_DATABASE:
        found = catalog.table(database, name)
        _require(call, "config", (found.database.id, found.id))
    dropped = catalog.drop_table(database, name)
    return {
        "config_changes": [{"new_val": None, "old_val": dropped.config()}],
        "tables_dropped": 1,
    }


@term(62, "table_list", 0, 1)
def table_list(call: Call) -> Value:
    """Return the names of a database's tables."""
    database = _database(call, 0) if len(call) else _default_database(call)
    if database == SYSTEM_DATABASE:
        return sorted(call.query.engine.system.by_name)
    return sorted(call.query.engine.catalog.database(database).tables)


@term(77, "index_list", 1)
def index_list(call: Call) -> Value:
    """Return an empty list: the sandbox has only the primary key."""
    table_argument(call, 0)
    return []


@term(79, "info", 1)
def info(call: Call) -> Value:
    """Describe a table or a database."""
    value = call.value(0)
    if is_table(value):
        return value.info()
    if isinstance(value, DatabaseValue):
        return {"id": _place(call, value.name)[0], "name": value.name, "type": "DB"}
    datum = call.query.to_datum(value)
    return {"type": type_name(datum), "value": pretty_datum(datum)}


@term(175, "status", 1)
def status(call: Call) -> Value:
    """Return the row of a table in ``table_status``."""
    return _user_table(call).table.status()


def _user_table(call: Call) -> UserTable:
    value = table_argument(call, 0)
    if isinstance(value, SystemTableAccess):
        raise op_failed(f"Database `{SYSTEM_DATABASE}` is special; you can't configure it.")
    return value


@term(174, "config", 1)
def config(call: Call) -> Value:
    """Return the configuration of a table or a database."""
    value = call.value(0)
    if isinstance(value, DatabaseValue):
        _require(call, "config", _place(call, value.name))
        return call.query.engine.catalog.database(value.name).config()
    user_table = _user_table(call)
    user_table.require("config")
    return user_table.table.config()


@term(177, "wait", 0, 1, options="timeout wait_for")
def wait(call: Call) -> Value:
    """Return at once: tables here are always ready."""
    value = call.value(0) if len(call) else DatabaseValue(_default_database(call))
    if isinstance(value, DatabaseValue):
        return {"ready": len(call.query.engine.catalog.database(value.name).tables)}
    return {"ready": 1}


@term(138, "sync", 1)
def sync(call: Call) -> Value:
    """Return at once: the sandbox has no disk."""
    table_argument(call, 0)
    return {"synced": 1}


@term(176, "reconfigure", 1, 1, options="shards replicas primary_replica_tag dry_run")
def reconfigure(call: Call) -> Value:
    """Change the number of shards, which ends the table's changefeeds."""
    user_table = _user_table(call)
    user_table.require("config")
    shards = _shards(call) or 1
    before, status_before = user_table.table.config(), user_table.table.status()
    if not call.option("dry_run"):
        call.query.engine.catalog.reshard(user_table.table, shards)
    after, status_after = user_table.table.config(), user_table.table.status()
    return {
        "reconfigured": int(not call.option("dry_run")),
        "config_changes": [{"new_val": after, "old_val": before}] if after != before else [],
        "status_changes": [{"new_val": status_after, "old_val": status_before}],
    }


@term(188, "grant", 2, 3)
def grant(call: Call) -> Value:
    """Set permissions: everywhere, on a database or on a table."""
    place: Place = ()
    if len(call) == 3:
        value = call.value(0)
        place = value.place if is_table(value) else _place(call, value.name)
    user, changes = call.string(len(call) - 2), call.datum(len(call) - 1)
    if call.query.user != "admin":
        # Granting writes to the system table of permissions, for which one must be able to read it.
        _require(call, "read", (SYSTEM_DATABASE_ID,))
        _require(call, "write", (SYSTEM_DATABASE_ID,))
    change = call.query.engine.accounts.grant(user, place, changes)
    return {"granted": 1, "permissions_changes": [change]}


@term(16, "get", 2)
def get(call: Call) -> Value:
    """Return one document by its key."""
    found = table_argument(call, 0)
    value = call.datum(1)
    return RowValue(found, value, key_bytes(value))


def _check_index(call: Call, found: AnyTable) -> None:
    if call.has_option("index") and call.option("index") != found.primary_key:
        raise no_index(found, call.option("index"))


@term(78, "get_all", 1, -1, options="index")
def get_all(call: Call) -> Value:
    """Return the documents with these keys; a key given twice gives its document twice."""
    found = table_argument(call, 0)
    _check_index(call, found)
    keys = []
    for index in range(1, len(call)):
        value = call.datum(index)
        if value is None:
            raise call.at(index, missing("Keys cannot be NULL."))
        keys.append(key_bytes(value))
    result = scan(found, KeySet(keys))
    result.kind = "SELECTION"
    return result


@term(182, "between", 3, 3, options="index left_bound right_bound")
def between(call: Call) -> Value:
    """Return the documents whose keys lie between two values."""
    value = call.value(0)
    if isinstance(value, Sequence) and value.table is not None:
        name = value.table.name
        raise call.at(
            0,
            logic(
                f"Expected type TABLE_SLICE but found {value.kind}:\n{value.kind} ON table({name})"
            ),
        )
    found = table_argument(call, 0)
    _check_index(call, found)
    low = _bound(call, 1, closed=_is_closed(call, "left_bound", default="closed"))
    high = _bound(call, 2, closed=not _is_closed(call, "right_bound", default="open"))
    return scan(found, KeyRange(low, high))


def _is_closed(call: Call, name: str, *, default: str) -> bool:
    choice = call.option(name) if call.has_option(name) else default
    if choice not in ("open", "closed"):
        shown = pretty_datum(choice)
        raise logic(f"Expected `open` or `closed` for optarg `{name}` (got `{shown}`).")
    return bool(choice == "closed")


def _bound(call: Call, index: int, *, closed: bool) -> bytes:
    """Return the first key at (``closed``) or after the bound in argument ``index``."""
    value: Any = call.value(index)
    if isinstance(value, Extremum):
        return LOWEST if value is MINVAL else HIGHEST
    if value is None:
        raise call.at(
            index,
            logic(
                "Cannot use `null` in BETWEEN, use `r.minval` or `r.maxval` to denote "
                "unboundedness."
            ),
        )
    key = key_bytes(call.query.to_datum(value))
    return key if closed else key + b"\0"
