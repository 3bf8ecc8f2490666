"""The V1_0 handshake: SCRAM in JSON messages that end with a zero byte.

Source: RethinkDB's "writing drivers" page and the answers of a 2.4.4 server to good and bad
handshakes, including the error codes.
"""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from replicator_sandbox.accounts import Accounts
from replicator_sandbox.scram import HandshakeError, ScramExchange
from replicator_sandbox.state import VERSION

_MAGIC = struct.Struct("<L")
_V1_0 = 0x34C2BDC3
_MAX_MESSAGE_BYTES = 65536
_WRONG_PROTOCOL = (
    b"ERROR: Received an unsupported protocol version. This port is for RethinkDB queries. "
    b"Does your client driver version not match the server?\n\0"
)

Send = Callable[[bytes], Awaitable[None]]


async def authenticate(reader: asyncio.StreamReader, send: Send, accounts: Accounts) -> str | None:
    """Carry out the handshake; return the user, or None if the client was refused."""
    (magic,) = _MAGIC.unpack(await reader.readexactly(_MAGIC.size))
    if magic != _V1_0:
        await send(_WRONG_PROTOCOL)
        return None
    version = {
        "max_protocol_version": 0,
        "min_protocol_version": 0,
        "server_version": VERSION,
        "success": True,
    }
    await send(_text(version))
    try:
        return await _exchange(reader, send, accounts)
    except HandshakeError as err:
        await send(_text({"error": str(err), "error_code": err.code, "success": False}))
        return None


async def _exchange(reader: asyncio.StreamReader, send: Send, accounts: Accounts) -> str:
    scram = ScramExchange(accounts)
    first = await _message(reader)
    protocol_version = first.get("protocol_version")
    if not isinstance(protocol_version, (int, float)):
        raise HandshakeError(1, "Expected a number for `protocol_version`.")
    if protocol_version != 0:
        raise HandshakeError(2, "Unsupported `protocol_version`.")
    method = first.get("authentication_method")
    if not isinstance(method, str):
        raise HandshakeError(3, "Expected a string for `authentication_method`.")
    if method != "SCRAM-SHA-256":
        raise HandshakeError(4, "Unsupported `authentication_method`.")
    challenge = scram.challenge(_authentication(first))
    await send(_text({"authentication": challenge, "success": True}))
    final = scram.verify(_authentication(await _message(reader)))
    await send(_text({"authentication": final, "success": True}))
    return scram.user


async def _message(reader: asyncio.StreamReader) -> dict[str, Any]:
    try:
        raw = await reader.readuntil(b"\0")
    except asyncio.LimitOverrunError as err:
        raise HandshakeError(7, "Limited read buffer size.") from err
    if len(raw) > _MAX_MESSAGE_BYTES:
        raise HandshakeError(7, "Limited read buffer size.")
    try:
        message = msgspec.json.decode(raw[:-1])
    except msgspec.DecodeError as err:
        raise HandshakeError(8, "Invalid JSON object.") from err
    if not isinstance(message, dict):
        raise HandshakeError(8, "Invalid JSON object.")
    return message


def _authentication(message: dict[str, Any]) -> str:
    value = message.get("authentication")
    if not isinstance(value, str):
        raise HandshakeError(5, "Expected a string for `authentication`.")
    return value


def _text(message: dict[str, Any]) -> bytes:
    return msgspec.json.encode(message, order="deterministic") + b"\0"
