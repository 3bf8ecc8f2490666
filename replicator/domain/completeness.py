"""Up to when all that happened in a table was read from its feed: where a gap begins (G4)."""


class Completeness:
    """The last instant of which nothing is unread; pure, all instants in microseconds.

    A gap is dated by it, so it must never be too late. What it follows from:

    - The server answers a request for more with all that it has, up to a megabyte. So a small
      response says that there was nothing more when it was made, nor when it was asked for.
    - The driver asks for the next response when it has received one, or later. The call that
      receives may wait, be slow, or stand still with its process; so what says when the next
      response was asked for, at the earliest, is the beginning of that call: a read, a ping or the
      opening. How long a response then waited in the socket does not matter.
    - A ping is answered after all that the server had for the feed, if it had been asked for more
      (`Changefeed.ping`). If nothing came before the answer, nothing is unread.
    - What a majority of the replicas of each shard did not agree to since does not count: a server
      that is cut off from one shard goes on with the others (`Changefeed.ping`).
    """

    def __init__(self) -> None:
        """Begin with a feed that was never open."""
        self._complete_at = 0
        self._agreed_at = 0
        self._next_at = 0  # what the next response proves if it is small
        self._came_after: int | None = None  # began the call that may have received what is unread

    @property
    def at(self) -> int:
        """Up to when everything was read and agreed to; 0 if the feed was never open."""
        return min(self._complete_at, self._agreed_at)

    def opened(self, began_at: int) -> None:
        """Begin anew with a feed whose opening began then: the snapshot has what came before."""
        self._complete_at = self._agreed_at = self._next_at = self._came_after = began_at

    def read(self, began_at: int, *, is_everything: bool) -> None:
        """Note that a read which began then returned elements.

        ``is_everything``: whether the server had nothing more when it made the response.
        """
        if is_everything:
            self._complete_at = self._next_at
        self._next_at = began_at if self._came_after is None else self._came_after
        self._came_after = None

    def pinged(self, began_at: int, *, is_everything: bool) -> None:
        """Note the answer to a ping that began then.

        ``is_everything``: whether nothing that came before the answer is unread.
        """
        self._agreed_at = began_at
        if is_everything:
            self._complete_at = self._next_at = began_at
        self._came_after = None if is_everything else began_at
