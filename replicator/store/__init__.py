"""The store: the one writer of the outbox.

Takes what the readers read and what the publisher reports, decides with `replicator.domain`, and
commits through the verbs of `replicator.outbox.port`. Knows neither SQL nor AMQP nor RethinkDB.
"""
