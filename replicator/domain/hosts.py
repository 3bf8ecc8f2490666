"""Whose turn it is when a server has several hosts."""

from collections.abc import Iterator, Sequence

Host = tuple[str, int]
"""A name or address, and a port."""


class InTurn:
    """The hosts of one server; each look for one begins after the last that was tried.

    A host that takes connections may still serve nobody: it hangs, or is cut off from the rest of
    its cluster. So whoever lost what it had at one host, or failed there, asks the next one.
    Not safe to share between threads.
    """

    def __init__(self, hosts: Sequence[Host]) -> None:
        """Begin with the first of the hosts."""
        self._hosts = tuple(hosts)
        self._next = 0

    def __iter__(self) -> Iterator[Host]:
        """Give each host once; to stop early is to have tried the last that it gave."""
        for _ in self._hosts:
            host = self._hosts[self._next]
            self._next = (self._next + 1) % len(self._hosts)
            yield host
