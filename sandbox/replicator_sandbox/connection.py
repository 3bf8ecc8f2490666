"""One client: its handshake, its queries in order, its open streams, its responses."""

import asyncio
from collections import deque
from typing import Any

from replicator_sandbox import protocol
from replicator_sandbox.cursors import BatchLimits, FeedCursor, RowsCursor
from replicator_sandbox.datum import decode, encode, refuse_literals
from replicator_sandbox.engine import Engine
from replicator_sandbox.faults import Faults
from replicator_sandbox.handshake import authenticate
from replicator_sandbox.protocol import FRAME, MAX_QUERY_BYTES, QueryType
from replicator_sandbox.query_text import query_text
from replicator_sandbox.reql_errors import ReqlError, client_error, compile_error, logic
from replicator_sandbox.state import Job
from replicator_sandbox.storage import SERVER_NAME
from replicator_sandbox.terms.core import Query, check_terms, to_sequence
from replicator_sandbox.terms.kinds import (
    DatabaseValue,
    FeedValue,
    Function,
    RowValue,
    Sequence,
    describe,
    is_table,
)

_GLOBAL_OPTIONS = frozenset(
    {
        "array_limit",
        "binary_format",
        "changefeed_queue_size",
        "db",
        "durability",
        "first_batch_scaledown_factor",
        "geometry_format",
        "group_format",
        "max_batch_bytes",
        "max_batch_rows",
        "max_batch_seconds",
        "min_batch_rows",
        "noreply",
        "read_mode",
        "time_format",
        "use_outdated",
    }
)
_BUGGY_CLIENT = "Client is buggy (failed to deserialize query)."


class Connection:
    """A client's connection, from its first byte to its last."""

    def __init__(
        self,
        engine: Engine,
        faults: Faults,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Serve the client at the other end of ``reader`` and ``writer``."""
        self._engine = engine
        self._faults = faults
        self._reader = reader
        self._writer = writer
        self._user = ""
        self._cursors: dict[int, RowsCursor | FeedCursor] = {}
        self._jobs: dict[int, Job] = {}
        self._unsent: deque[tuple[bytes, bool]] = deque()
        self._sender: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Answer queries in the order in which they come, until the client is gone."""
        try:
            user = await authenticate(self._reader, self._send_text, self._engine.accounts)
            if user is not None:
                self._user = user
                await self._serve_queries()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is gone, which is how every connection ends
        finally:
            self._release()
            self._writer.close()

    def drop(self) -> None:
        """Cut the connection; what was not sent yet will not be."""
        self._release()
        self._writer.transport.abort()

    def _release(self) -> None:
        for token in list(self._cursors):
            self._forget(token)
        if self._sender is not None:
            self._sender.cancel()

    async def _serve_queries(self) -> None:
        while True:
            token, size = FRAME.unpack(await self._reader.readexactly(FRAME.size))
            if size >= MAX_QUERY_BYTES:
                self._fail(token, client_error(f"Query size ({size}) greater than maximum."))
                return
            text = await self._reader.readexactly(size)
            await self._faults.until_talking()
            self._handle(token, text)
            # A client that does not read blocks its own further queries only.
            await self._writer.drain()

    async def _send_text(self, text: bytes) -> None:
        await self._faults.until_talking()
        self._writer.write(text)
        await self._writer.drain()

    def _handle(self, token: int, text: bytes) -> None:
        is_silent = False
        failure: ReqlError | None = None
        try:
            kind, item, options = _parsed(text)
            is_silent = options.get("noreply") is True
            if kind == QueryType.START:
                self._start(token, item, options)
            elif kind == QueryType.CONTINUE:
                self._continue(token)
            elif kind == QueryType.STOP:
                self._cursor(token).stop()
                self._forget(token)
                self._respond(token, protocol.batch([], is_last=True))
            elif kind == QueryType.NOREPLY_WAIT:
                # Queries of a connection run in order, so everything before this is done.
                self._respond(token, protocol.wait_complete())
            else:
                self._respond(token, protocol.server_info(self._server_info()))
        except ReqlError as err:
            failure = err
        except RecursionError:
            failure = logic("The query is nested too deeply for the sandbox.")
        except Exception as err:  # noqa: BLE001  # boundary: the flaw of one query stays its own
            flaw = f"Unexpected exception: {type(err).__name__}: {err}"
            failure = ReqlError(flaw, protocol.ErrorType.INTERNAL)
        if failure is not None and not is_silent:
            self._fail(token, failure)

    def _continue(self, token: int) -> None:
        try:
            self._cursor(token).ask()
        except ReqlError:
            self._forget(token)
            raise
        self._forget_if_closed(token)

    def _cursor(self, token: int) -> RowsCursor | FeedCursor:
        cursor = self._cursors.get(token)
        if cursor is None:
            raise client_error(f"Token {token} not in stream cache.")
        return cursor

    def _server_info(self) -> bytes:
        return encode({"id": self._engine.server_id, "name": SERVER_NAME, "proxy": False})

    def _start(self, token: int, item: Any, options: dict[str, Any]) -> None:
        if token in self._cursors:
            raise client_error(f"ERROR: duplicate token {token}")
        for name in options:
            if name not in _GLOBAL_OPTIONS:
                raise compile_error(f"Unrecognized global optional argument `{name}`.")
        check_terms(item)
        check_terms(options)
        query = Query(self._engine, self._user, options)
        value = query.evaluate(item, {})
        if options.get("noreply") is not True:
            self._answer(token, item, query, value)

    def _answer(self, token: int, item: Any, query: Query, value: Any) -> None:
        """Send the result of a query, or open it as a stream."""
        if isinstance(value, FeedValue):
            self._open_feed(token, item, query, value)
            return
        if is_table(value):
            value = to_sequence(query, value)
        if isinstance(value, Sequence) and value.kind != "ARRAY":
            cursor = RowsCursor(
                value.elements, BatchLimits.of(query), lambda body: self._respond(token, body)
            )
            if cursor.is_open:
                self._cursors[token] = cursor
            return
        if isinstance(value, RowValue):
            text = value.table.read(value.key) or b"null"
        else:
            text = _result_text(query, value)
        self._respond(token, protocol.atom(text))

    def _open_feed(self, token: int, item: Any, query: Query, value: FeedValue) -> None:
        limits = BatchLimits.of(query)
        feed = value.open()
        feed.is_ready_held = self._faults.is_ready_held
        peer = self._writer.get_extra_info("peername")
        job = Job(feed, self._user, (peer[0], peer[1]), query_text(item))
        self._engine.jobs[job.id] = job
        self._jobs[token] = job

        def respond_error(error: ReqlError) -> None:
            self._forget(token)
            self._fail(token, error)

        try:
            self._cursors[token] = FeedCursor(
                value,
                feed,
                limits,
                lambda body: self._respond(token, body, is_feed_batch=True),
                respond_error,
            )
        except ReqlError:
            feed.close()
            self._forget(token)
            raise
        self._forget_if_closed(token)

    def _forget_if_closed(self, token: int) -> None:
        cursor = self._cursors.get(token)
        if cursor is not None and not cursor.is_open:
            self._forget(token)

    def _forget(self, token: int) -> None:
        cursor = self._cursors.pop(token, None)
        if isinstance(cursor, FeedCursor):
            cursor.close()
        job = self._jobs.pop(token, None)
        if job is not None:
            self._engine.jobs.pop(job.id, None)

    def _fail(self, token: int, error: ReqlError) -> None:
        self._respond(
            token,
            protocol.failure(error.response_type, error.error_type, error.message, error.frames),
        )

    def _respond(self, token: int, body: bytes, *, is_feed_batch: bool = False) -> None:
        """Send one response, at once unless a fault holds back it or an earlier one."""
        message = FRAME.pack(token, len(body)) + body
        if self._sender is None and not self._faults.may_touch_responses:
            self._writer.write(message)
            return
        self._unsent.append((message, is_feed_batch))
        if self._sender is None:
            self._sender = asyncio.ensure_future(self._send_held())

    async def _send_held(self) -> None:
        """Send what a fault held back, in order and as the fault demands."""
        try:
            while self._unsent:
                await self._faults.until_talking()
                if self._faults.delay_seconds:
                    await asyncio.sleep(self._faults.delay_seconds)
                message, is_feed_batch = self._unsent[0]
                if is_feed_batch and self._faults.take_stall():
                    half = len(message) // 2
                    self._writer.write(message[:half])
                    await self._faults.until_flowing()
                    message = message[half:]
                self._writer.write(message)
                self._unsent.popleft()
        finally:
            self._sender = None


def _parsed(text: bytes) -> tuple[int, Any, dict[str, Any]]:
    """Return the parts of a query."""
    try:
        parts = decode(text)
    except (ValueError, RecursionError) as err:
        raise client_error(_BUGGY_CLIENT) from err
    if not isinstance(parts, list):
        raise client_error(_BUGGY_CLIENT)
    if not 1 <= len(parts) <= 3:
        raise client_error(
            "Server could not parse query: Expected 1 to 3 elements in the top-level query, "
            f"but found {len(parts)}."
        )
    kind, item, options = (*parts, None, None)[:3]
    if kind not in list(QueryType):
        raise client_error(f"Server could not parse query: Unrecognized QueryType: {kind}.")
    if kind == QueryType.START and len(parts) == 1:
        raise client_error("Server could not parse query: A START query needs a term.")
    return int(kind), item, options or {}


def _result_text(query: Query, value: Any) -> bytes:
    if isinstance(value, Sequence) and value.kind == "ARRAY":
        parts = (
            element if type(element) is bytes else encode(element) for element in value.elements
        )
        return b"[" + b",".join(parts) + b"]"
    if isinstance(value, (DatabaseValue, Function)):
        kind = describe(value).partition(":")[0]
        raise logic(f"Query result must be of type DATUM, GROUPED_DATA, or STREAM (got {kind}).")
    datum = query.to_datum(value)
    refuse_literals(datum)
    return encode(datum)
