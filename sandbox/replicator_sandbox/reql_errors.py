"""The errors with which the sandbox answers, in the form of a real server's.

A query fails with a `ReqlError`; the connection turns it into a response. The texts and the
numbers are those of RethinkDB 2.4.4, because clients match on both.
"""

from replicator_sandbox.protocol import ErrorType, ResponseType


class ReqlError(Exception):
    """A query that failed; ``frames`` is the path from the query's root to the term at fault."""

    def __init__(
        self,
        message: str,
        error_type: ErrorType | None,
        response_type: ResponseType = ResponseType.RUNTIME_ERROR,
    ) -> None:
        """Keep what the response needs: its type, the error's type and the text."""
        super().__init__(message)
        self.message = message
        self.error_type = error_type
        self.response_type = response_type
        self.frames: list[int | str] = []


def logic(message: str) -> ReqlError:
    """Return the error of a query that makes no sense: wrong type, wrong argument."""
    return ReqlError(message, ErrorType.QUERY_LOGIC)


def missing(message: str) -> ReqlError:
    """Return the error that ``default`` catches: no such field, no such index, null."""
    return ReqlError(message, ErrorType.NON_EXISTENCE)


def op_failed(message: str) -> ReqlError:
    """Return the error of an operation on the cluster that failed: no such table."""
    return ReqlError(message, ErrorType.OP_FAILED)


def resource_limit(message: str) -> ReqlError:
    """Return the error of a query that needs more than the server allows."""
    return ReqlError(message, ErrorType.RESOURCE_LIMIT)


def compile_error(message: str) -> ReqlError:
    """Return the error of a query that cannot even begin: unknown term, wrong arity."""
    return ReqlError(message, None, ResponseType.COMPILE_ERROR)


def client_error(message: str) -> ReqlError:
    """Return the error of a client that breaks the protocol."""
    return ReqlError(message, None, ResponseType.CLIENT_ERROR)


def permission_denied(user: str, permission: str) -> ReqlError:
    """Return the error of a user who lacks ``permission``."""
    return ReqlError(
        f"User `{user}` does not have the required `{permission}` permission.",
        ErrorType.PERMISSION,
    )


def feed_refused(denied: ReqlError) -> ReqlError:
    """Return ``denied`` as the opening of a changefeed reports it.

    A real server answers a denied feed with its internal error, not with the permission
    error that a plain read gets.
    """
    return ReqlError(f"Unexpected exception: {denied.message}", ErrorType.INTERNAL)
