"""The errors of this project, named for what happened.

Every error carries a ``hint``: the next step for the person who reads it. Two kinds decide
what the program does: `PermanentError` ends ``replicator`` at start with exit status 2 and is
retried slowly at run time; `TransientError` is retried with backoff for ever.
"""

from typing import ClassVar, Literal

from replicator.descriptors import with_exhaustion


class ReplicatorError(Exception):
    """Base of all errors that a user may see; ``hint`` says what to do next."""

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep the one-line message and the hint, which the command line prints below it.

        Whatever a process without descriptors fails at, the hint names the descriptors too.
        """
        super().__init__(message)
        self.hint = with_exhaustion(hint, message)


class PermanentError(ReplicatorError):
    """Does not pass until somebody changes something: exit status 2 at start."""

    exit_status = 2  # as for wrong usage


class TransientError(ReplicatorError):
    """Expected to pass by itself: retried with backoff."""


class SettingsInvalid(PermanentError):
    """A setting is unknown, missing, of the wrong type or contradicts another."""

    log_format: Literal["auto", "console", "json"] = "auto"
    """The setting ``log.format``, as far as it is known: the error is told in this form."""


class ServerMissing(ReplicatorError):
    """A server program that a demo or a test needs is not installed."""


class SandboxMissing(PermanentError):
    """The package with the servers of the demo is not installed."""


# The source: RethinkDB.


class SourceRefused(PermanentError):
    """RethinkDB answered, and refuses: wrong password, no permission."""


class TableUnusable(PermanentError):
    """The table does not exist, or its name cannot be used."""


class SourceUnavailable(TransientError):
    """RethinkDB cannot be reached, or the table is not available now."""


class FeedLost(TransientError):
    """The changefeed ended; ``cause`` is the gap's cause in the metrics and the gap record."""

    cause = "disconnect"


class FeedDisconnected(FeedLost):
    """The connection that carried the changefeed is gone."""


class FeedAborted(FeedLost):
    """RethinkDB ended the changefeed: table dropped, primary moved, query killed."""

    cause = "aborted"


class FeedOverflowed(FeedLost):
    """RethinkDB dropped changes because this reader did not keep up."""

    cause = "overflow"

    def __init__(self, message: str, *, skipped: int, hint: str | None = None) -> None:
        """Keep ``skipped``, the number of changes that the server said it dropped."""
        super().__init__(message, hint=hint)
        self.skipped = skipped


class SnapshotStalled(FeedLost):
    """A snapshot stopped without ``ready``: the server's queue overflowed during it."""

    cause = "overflow"


class ResyncRequested(FeedLost):
    """An operator asked for a new snapshot."""

    cause = "requested"


# The outbox.


class OutboxInUse(PermanentError):
    """Another replicator holds this outbox."""


class OutboxTooNew(PermanentError):
    """The outbox's schema was written by a newer replicator."""


class OutboxOutdated(PermanentError):
    """The outbox's schema is older than this program and was not migrated."""


class OutboxMissing(PermanentError):
    """The outbox does not exist."""


class OutboxUnusable(PermanentError):
    """The outbox cannot be opened: not a database, corrupt, no permission."""


class OutboxUnavailable(TransientError):
    """The outbox cannot be read or written now: disk full, locked, I/O error."""


class EntryUnknown(ReplicatorError):
    """No entry has this id."""


class NothingHeldBack(ReplicatorError):
    """No deletes of this table are held back, or not the ones that were shown."""


# The publisher: RabbitMQ.


class BrokerRefused(PermanentError):
    """RabbitMQ answered, and refuses: wrong password, no permission, other exchange type."""


class BrokerUnavailable(TransientError):
    """RabbitMQ cannot be reached, or closed the connection."""


class ChannelClosed(TransientError):
    """RabbitMQ closed the channel: one of the messages in flight, or the exchange, is wrong."""


class WorkerDied(ReplicatorError):
    """A thread of the service ended by an error that nothing handles: the process ends."""
