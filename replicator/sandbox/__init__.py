"""Servers for demos and tests; nothing that ``replicator run`` does may depend on them."""

from replicator.sandbox.control import SandboxControl
from replicator.sandbox.server import EmbeddedRethinkDB

__all__ = ["EmbeddedRethinkDB", "SandboxControl"]
