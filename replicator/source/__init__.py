"""The source: the only code that knows RethinkDB's driver.

One connection and one thread per changefeed, which reads and hands over
(`replicator.domain.ports.FeedSink`). What a change means is decided by the store.
"""
