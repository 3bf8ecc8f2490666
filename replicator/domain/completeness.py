"""The instant up to which a feed was read completely: where a gap begins (G4)."""


class Completeness:
    """The last instant of which nothing is unread; pure, all instants in microseconds.

    A gap begins at this instant, so it must never be too late. It follows from four facts:

    - The server answers a request for more with all that it has, up to a megabyte. So a small
      response proves that there was nothing more when the server made it, and nothing more when
      the driver asked for it.
    - The driver asks for the next response once it has received one, or later. The call that
      receives may wait, be slow, or stop together with its process. So the earliest instant at
      which the next response was asked for is the beginning of that call: a read, a ping or the
      opening. How long a response then waited in the socket does not matter.
    - The server answers a ping after everything that it had for the feed, if it had been asked for
      more (`Changefeed.ping`). If nothing came before the answer, nothing is unread.
    - Only what a majority of each shard's replicas has agreed to counts: a server that is cut off
      from one shard goes on with the others (`Changefeed.ping`).
    """

    def __init__(self) -> None:
        """Start with a feed that was never open."""
        self._complete_at = 0
        self._agreed_at = 0
        self._next_at = 0  # what the next response proves if it is small
        self._came_after: int | None = None  # began the call that may have received what is unread

    @property
    def at(self) -> int:
        """The instant up to which everything was read and agreed to; 0: the feed was never open."""
        return min(self._complete_at, self._agreed_at)

    def opened(self, began_at: int) -> None:
        """Start again with a feed whose opening began then: the snapshot has what came before."""
        self._complete_at = self._agreed_at = self._next_at = self._came_after = began_at

    def read(self, began_at: int, *, is_everything: bool) -> None:
        """Note that a read that began then returned elements.

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
