"""Servers for demos and tests; nothing that ``replicator run`` does may depend on them."""

from replicator_sandbox.control import SandboxControl
from replicator_sandbox.server import EmbeddedRethinkDB

__all__ = ["EmbeddedRethinkDB", "SandboxControl"]
