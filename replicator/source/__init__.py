"""The source: the only code that knows RethinkDB's driver.

One connection and one thread per changefeed. It reads and hands over; what a change means is
decided behind the door (`replicator.domain.ports.FeedSink`).
"""
