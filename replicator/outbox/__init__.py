"""The outbox: the only code that knows SQL, and the only writer, one thread at a time.

It keeps promises G1 and G2: what was captured is committed, together with the index that makes
the next comparison exact, before anything is published; and it is deleted only when RabbitMQ
has confirmed it.
"""
