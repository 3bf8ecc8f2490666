"""The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677) as RethinkDB speaks it.

Errors have RethinkDB's codes 10 to 20, which drivers report as authentication errors.
"""

import base64
import binascii
import hashlib
import hmac
import os

from replicator_sandbox.accounts import Accounts, Password


class HandshakeError(Exception):
    """The handshake failed; ``code`` and the text go to the client."""

    def __init__(self, code: int, message: str) -> None:
        """Keep the code of the handshake's error message."""
        super().__init__(message)
        self.code = code


class ScramExchange:
    """One exchange: `challenge` answers the first message, `verify` the final one."""

    def __init__(self, accounts: Accounts) -> None:
        """Authenticate against ``accounts``."""
        self._accounts = accounts
        self._password: Password | None = None
        self._nonce = ""
        self._transcript = ""
        self.user = ""

    def challenge(self, message: str) -> str:
        """Return the server-first-message: our nonce, the user's salt and iterations."""
        if not message.startswith("n,"):
            raise HandshakeError(15, "Channel binding is not supported")
        _, separator, bare = message[2:].partition(",")
        fields = _fields(bare)
        if not separator or "n" not in fields or "r" not in fields:
            raise HandshakeError(10, "Invalid encoding")
        if "m" in fields:
            raise HandshakeError(11, "Extensions not supported")
        self.user = _user_name(fields["n"])
        self._password = self._accounts.passwords.get(self.user)
        self._nonce = fields["r"] + base64.b64encode(os.urandom(15)).decode()
        # An unknown user gets a challenge too, so that it does not show which users exist.
        shown = self._password or Password("x")
        first = f"r={self._nonce},s={base64.b64encode(shown.salt).decode()},i={shown.iterations}"
        self._transcript = f"{bare},{first}"
        return first

    def verify(self, message: str) -> str:
        """Return the server-final-message after checking the client's proof."""
        fields = _fields(message)
        if self._password is None:
            raise HandshakeError(17, "Unknown user")
        if "p" not in fields or "r" not in fields or fields.get("c") != "biws":
            raise HandshakeError(10, "Invalid encoding")
        without_proof = message.rpartition(",p=")[0]
        transcript = f"{self._transcript},{without_proof}".encode()
        client_key = _hmac(self._password.salted, b"Client Key")
        stored_key = hashlib.sha256(client_key).digest()
        signature = _hmac(stored_key, transcript)
        expected = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        try:
            proof = base64.b64decode(fields["p"], validate=True)
        except binascii.Error as err:
            raise HandshakeError(10, "Invalid encoding") from err
        if fields["r"] != self._nonce or not hmac.compare_digest(proof, expected):
            raise HandshakeError(12, "Wrong password")
        server_key = _hmac(self._password.salted, b"Server Key")
        return f"v={base64.b64encode(_hmac(server_key, transcript)).decode()}"


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _fields(message: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for part in message.split(","):
        name, separator, value = part.partition("=")
        if not separator or len(name) != 1:
            raise HandshakeError(10, "Invalid encoding")
        fields[name] = value
    return fields


def _user_name(escaped: str) -> str:
    if "=" in escaped.replace("=2C", "").replace("=3D", ""):
        raise HandshakeError(18, "Invalid username encoding")
    return escaped.replace("=2C", ",").replace("=3D", "=")
