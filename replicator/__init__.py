"""Reliable at-least-once replication of RethinkDB changefeeds into RabbitMQ topic exchanges."""

__version__ = "0.2.0"
