"""The ways in which the sandbox fails on demand.

`FaultSwitches` is what callers see, in the same process or through the control port;
`Faults` is the state that the connections obey.
"""

import abc
import asyncio
from typing import Any


class Faults:
    """What is switched on now; used from the server's thread only."""

    def __init__(self) -> None:
        """Start with a server that behaves."""
        self.is_refusing = False
        self.is_ready_held = False
        self.delay_seconds = 0.0
        self._is_stall_armed = False
        self._talking = asyncio.Event()
        self._talking.set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def may_touch_responses(self) -> bool:
        """Return whether a response may have to wait or be cut."""
        return bool(self.delay_seconds or self._is_stall_armed or not self._talking.is_set())

    def set_silent(self, *, on: bool) -> None:
        """Hold back everything that should be sent, or release it."""
        _set(self._talking, not on)

    def set_stall(self, *, on: bool) -> None:
        """Cut the next batch of a feed in the middle, or send the rest of a cut one."""
        self._is_stall_armed = on
        _set(self._flowing, not on)

    async def until_talking(self) -> None:
        """Wait while the server is silent."""
        await self._talking.wait()

    async def until_flowing(self) -> None:
        """Wait while a cut message must not go on."""
        await self._flowing.wait()

    def take_stall(self) -> bool:
        """Return, once, that this message is the one to cut."""
        is_armed, self._is_stall_armed = self._is_stall_armed, False
        return is_armed


def _set(event: asyncio.Event, is_set: bool) -> None:  # noqa: FBT001  # a pair of calls in one
    if is_set:
        event.set()
    else:
        event.clear()


class FaultSwitches(abc.ABC):
    """The switches, one method each; every method returns once the fault has taken effect."""

    @abc.abstractmethod
    def switch(self, name: str, **arguments: Any) -> int:
        """Carry out the fault ``name``; return the number of connections or feeds that it met."""

    def drop_connections(self) -> int:
        """Close every open connection without an answer; return their number."""
        return self.switch("drop_connections")

    def overflow_feeds(self, table: str | None = None) -> int:
        """Make the open feeds (on ``db.table``, or all) lose what waits in them."""
        return self.switch("overflow_feeds", table=table)

    def abort_feeds(
        self, table: str | None = None, message: str = "Changefeed aborted (unavailable)."
    ) -> int:
        """End the open feeds (on ``db.table``, or all) as a failover does."""
        return self.switch("abort_feeds", table=table, message=message)

    def go_silent(self, *, on: bool = True) -> None:
        """Accept and read, but send nothing and close nothing: a hung server."""
        self.switch("go_silent", on=on)

    def refuse(self, *, on: bool = True) -> None:
        """Close new connections at once; open ones stay open."""
        self.switch("refuse", on=on)

    def delay(self, seconds: float) -> None:
        """Delay every response by ``seconds``; 0 ends it."""
        self.switch("delay", seconds=seconds)

    def stall_mid_message(self, *, on: bool = True) -> None:
        """Send half of the next batch of any feed, then nothing more on that connection.

        Switching it off sends the rest.
        """
        self.switch("stall_mid_message", on=on)

    def hold_ready(self, *, on: bool = True) -> None:
        """Never send the state ``ready``: the snapshot does not end."""
        self.switch("hold_ready", on=on)
