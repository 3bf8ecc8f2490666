"""The publisher: the only code that knows pika.

It publishes what the outbox has committed, on one connection, one thread at a time, and reports
what became of it. It keeps promise G3, and its half of G1: nothing is reported as settled that
RabbitMQ has not confirmed.
"""
