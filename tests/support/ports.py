"""Free loopback ports, for servers that a test starts itself."""

from replicator_sandbox.host import free_port

__all__ = ["free_port"]
