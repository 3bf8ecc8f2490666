"""Reliable at-least-once replication of RethinkDB changefeeds into RabbitMQ topic exchanges."""

__version__ = "0.1.0"
