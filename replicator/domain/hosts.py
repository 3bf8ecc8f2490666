"""The hosts of a server: which is tried next, and what their failures say."""

from collections.abc import Iterable, Iterator, Sequence

Host = tuple[str, int]
"""A name or address, and a port."""


class InTurn:
    """The hosts of one server; each iteration begins after the host that was tried last.

    A host that takes connections may still serve nobody: it hangs, or is cut off from the rest of
    its cluster. So after a failure or a lost connection at one host, the next one is tried.
    Not safe to share between threads.
    """

    def __init__(self, hosts: Sequence[Host]) -> None:
        """Start with the first of the hosts."""
        self._hosts = tuple(hosts)
        self._next = 0

    def __iter__(self) -> Iterator[Host]:
        """Give each host once; whoever stops early has tried the last one given."""
        for _ in self._hosts:
            host = self._hosts[self._next]
            self._next = (self._next + 1) % len(self._hosts)
            yield host


def hint_of_tls(failures: Iterable[str], *, is_tls: bool, setting: str, hung_up: str) -> str:
    """Return what to add to a hint when only one end seems to speak TLS; else nothing.

    Args:
        failures: what each host answered.
        is_tls: whether this end speaks TLS.
        setting: what turns it on.
        hung_up: the driver's words for a server that hangs up, as a server that expects TLS does.
    """
    said = " ".join(failures)
    if is_tls and "WRONG_VERSION_NUMBER" in said:  # OpenSSL's word for an answer that is not TLS
        return f"; the port does not speak TLS, which {setting} turns on"
    if not is_tls and hung_up in said:
        return f"; if the port speaks TLS, use {setting}"
    return ""
