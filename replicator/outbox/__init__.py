"""The outbox: what was captured and RabbitMQ has not confirmed yet. The only code that knows SQL.

It keeps promises G1 and G2: a change is committed, together with the index that makes the next
comparison exact, before it is published, and deleted only when RabbitMQ has confirmed it.
"""
