"""Free loopback ports, for servers that a test starts itself."""

from replicator.sandbox.rabbitmq import free_port

__all__ = ["free_port"]
