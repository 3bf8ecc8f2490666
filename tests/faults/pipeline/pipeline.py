"""The whole pipeline on one thread: real parts between a simulated source and broker.

A scenario is a list of small actions, each a name and a number. All of them can be done at any
time, so that every list is a scenario and a failing one shrinks to a short one. Afterwards
everything is healed, and the promises must hold.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from replicator.domain.feed_state import FeedState
from replicator.domain.guard import DeleteLimit
from replicator.domain.items import TableSettings
from replicator.domain.model import TableName
from replicator.errors import BrokerUnavailable, ChannelClosed
from replicator.publisher.broker import Broker, Publication
from replicator.publisher.publisher import Publisher
from replicator.store.inbox import Inbox
from replicator.store.pausing import OutboxLimits
from tests.faults.pipeline import parts
from tests.faults.pipeline.ledger import Ledger, Settings, Violation, require
from tests.faults.pipeline.operator import Operator
from tests.faults.pipeline.parts import _METRICS, Crash, Database, Lane, Sink, WatchedStore
from tests.faults.pipeline.simulated_link import SimulatedLink
from tests.faults.pipeline.simulated_source import KEYS, SimulatedTable

Action = tuple[str, int]
_ROUNDS = 250
_BROKER = Broker([("simulated", 5672)], "guest", "guest", "/", "rethinkdb", is_tls=False)
_LARGEST = 700  # bytes of the largest change: two large documents and their envelope


class Pipeline:
    """One scenario: the servers, and one process of the replicator after the other."""

    def __init__(self, world: parts.Simulated, database: Database, settings: Settings) -> None:
        world.reset()
        database.empty()
        world.new_link = lambda _parameters, state, events, **_: SimulatedLink(self, state, events)
        world.patience.meanwhile = self._meanwhile
        database.on_commit = self._note_commit
        self.world = world
        self.clock = world.clock
        self.database = database
        self.settings = settings
        self.tables = [SimulatedTable(self.clock, name) for name in ("a", "b")]
        self.ledger = Ledger(self.tables, settings)
        self.broker = self.ledger.broker
        self.operator = Operator(self, database)
        self.link: SimulatedLink | None = None
        self.steps = 0
        self._is_dead = False
        self._actions: Iterator[Action] = iter(())
        self._boot()

    def _note_commit(self, cursor: Any) -> None:
        self.ledger.commit(cursor, self.store.items)
        self.store.outcomes = ()

    def _boot(self) -> None:
        """Start a process on the outbox that is there."""
        settings = self.settings
        self.link = None
        self.inbox = Inbox()
        self.store = WatchedStore(
            self.database.outbox,
            self.inbox,
            _METRICS,
            limits=OutboxLimits(settings.max_entries, 1 << 30),
            clock=self.clock.now_us,
        )
        self.store.prepare()
        limit = None if settings.delete_limit is None else DeleteLimit(settings.delete_limit)
        feeds = self.store.register(
            [
                TableSettings(
                    TableName("db", table.name),
                    "{}",
                    settings.keep_documents,
                    settings.is_baseline,
                    delete_limit=limit,
                )
                for table in self.tables
            ]
        )
        self.publisher = Publisher(
            _BROKER,
            Publication(window=settings.window, on_unroutable=settings.policy),
            outbox_id="simulate",
            names=self.store.names(),
            report=self.inbox.report,
            metrics=_METRICS,
            clock=self.clock.time,
        )
        self.sink = Sink(self.publisher, self.operator.interlude)
        self.store.connect(self.sink)
        self.lanes = [
            Lane(feed.id, table, self.inbox) for feed, table in zip(feeds, self.tables, strict=True)
        ]

    # Playing a scenario.

    def run(self, actions: Iterable[Action]) -> None:
        """Play a scenario, heal everything, and check what was promised.

        Raises:
            Violation: a promise was broken, or a part of the process died.
        """
        self._actions = iter(actions)
        self._live()
        self._actions = self._heal()
        self._live()
        self.ledger.check_all(self.database.cursor, has_gone_back=self.clock.has_gone_back)

    def _live(self) -> None:
        while True:
            try:
                if self._is_dead:
                    self._reboot()
                return self.play(until=lambda: False)
            except Crash:
                self._is_dead = True
            except Violation:
                raise
            except Exception as err:
                raise Violation(f"the process died of {err!r}") from err

    def _reboot(self) -> None:
        for table in self.tables:
            table.disconnect()
        self.database.heal()
        self.database.reopen()
        self.ledger.process_died()
        self.clock.advance(0.5)
        self._boot()
        self._is_dead = False

    def play(self, *, until: Callable[[], bool]) -> None:
        """Do one action after the other; the loop of a link does it as well, until it ends."""
        for name, number in self._actions:
            self.steps += 1
            self.clock.advance(0.001)
            getattr(self.operator if hasattr(self.operator, name) else self, name)(number)
            self._check_bounds()
            if until():
                return

    def _check_bounds(self) -> None:
        window = self.publisher._delivery.window
        limit = max(2 * self.settings.window, parts.MIN_BUFFERED)
        require(window.in_flight <= self.settings.window, "G5: too much in flight", window)
        if self.link is not None and self.link.connection is not None:
            is_answered = self.link.connection.has_answered and not self.link.is_over
            require(not (is_answered and window.in_flight), "G1: a confirm was not understood")
        waiting = window.buffered + self.publisher._calls.count
        require(waiting <= limit + self.settings.window, "G5: too many entries in memory", waiting)
        require(self.inbox._bytes <= parts.INBOX_BYTES + 4 * len(KEYS) * _LARGEST, "G5: the inbox")

    # The source.

    def _lane(self, number: int) -> Lane:
        return self.lanes[number % 2]

    def write(self, number: int) -> None:
        table = self.tables[number % 2]
        if table.is_there:
            value = (number >> 3) % 8
            table.write((number >> 1) % len(KEYS), None if value < 2 else value)

    def burst(self, number: int) -> None:
        for n in range(5 + number % 4):
            self.write(((number + 3 * n) % 256) & ~1 | number & 1)

    def churn(self, number: int) -> None:
        """Change one document again and again, as far as the outbox."""
        for n in range(2 + (number >> 6) % 3):
            self.write(number & 7 | (2 + (number + n) % 5) << 3)
        self.follow(number)
        self.step_store(number)

    def open_feed(self, number: int) -> None:
        self._lane(number).open()

    def serve(self, number: int) -> None:
        if (feed := self.tables[number % 2].feed) is not None:
            feed.serve(1 + (number >> 1) % 3, number >> 3)

    def read(self, number: int) -> None:
        self._lane(number).read()

    def wait_for_server(self, number: int) -> None:
        self._lane(number).wait_for_the_server()

    def follow(self, number: int) -> None:
        """Let changes come as far as the inbox: the usual thing."""
        lane = self._lane(number)
        lane.open()
        self.serve(number)
        if lane.table.feed is not None and lane.table.feed.response is not None:
            lane.read()

    def abort_feed(self, number: int) -> None:
        self.tables[number % 2].abort()

    def disconnect_feed(self, number: int) -> None:
        self.tables[number % 2].disconnect()

    def fail_over(self, number: int) -> None:
        self.tables[number % 2].fail_over(1 + (number >> 1) % 2)

    def drop_table(self, number: int) -> None:
        if self.tables[number % 2].is_there:
            self.tables[number % 2].drop()

    def create_table(self, number: int) -> None:
        if not self.tables[number % 2].is_there:
            self.tables[number % 2].create("id" if number & 2 else "k")

    def request_resync(self, number: int) -> None:
        self._lane(number).reader.request_resync()

    def lose_after_accepting(self, number: int) -> None:
        """Let deletes go, and delete more before the feed that held them back is open again."""
        self.operator.accept_deletes(number)
        self.abort_feed(number)
        for _ in KEYS:
            self.read(number)
        for key in KEYS:
            self.write(number % 2 | key << 1)

    # The store.

    def step_store(self, _number: int) -> None:
        for lane in self.lanes:
            lane.hand_over()
        work = self.inbox.gather(timeout=0.0)
        self.store.step(work, self.clock.wall)
        self._check_totals()

    def _check_totals(self) -> None:
        totals = self.store.status.totals
        is_counted = (totals.pending, totals.parked) == (
            len(self.ledger.pending),
            len(self.ledger.parked),
        )
        # What an operator does is counted once a second, and so is what got in its way.
        require(is_counted or self.operator.is_uncounted, "G5: the totals are wrong", totals)

    def fail_commits(self, number: int) -> None:
        self.database.fail(after=number % 12, times=1 + (number >> 4) % 3, is_crash=False)

    def crash_in_commit(self, number: int) -> None:
        self.database.fail(after=number % 12, times=1, is_crash=True)

    def crash_after_commit(self, _number: int) -> None:
        self.sink.kills = True

    def crash(self, _number: int) -> None:
        raise Crash

    def stop(self, number: int) -> None:
        """Stop in the service's order; the drain is as long as it may be short."""
        for lane in self.lanes:
            lane.stop()
        self.store.stop_handing_over()
        self.inbox.close()
        self.step_store(number)
        if self.link is not None:
            self.link.hang_up()
        self.publisher._delivery.flush()
        self.step_store(number)
        raise Crash

    def fill_disk(self, number: int) -> None:
        self.world.is_disk_low = bool(number & 1)

    # The publisher and the broker.

    def connect(self, _number: int) -> None:
        if self.link is not None:
            return
        try:
            self.publisher._session()
        except (BrokerUnavailable, ChannelClosed) as err:
            self.publisher._state.failed(err)

    def turn(self, _number: int) -> None:
        if self.link is not None:
            self.link.turn()

    def take(self, number: int) -> None:
        for connection in self.broker.connections[-1:]:
            self.broker.take(connection, 1 + (number >> 1) % 4)

    def refuse(self, number: int) -> None:
        """Let the broker refuse a message and take the ones behind it."""
        self.turn(number)
        for connection in self.broker.connections[-1:]:
            self.broker.take(connection, 1 + number % 2, refused=True)
            self.broker.take(connection, (number >> 1) % 4)

    def confirm(self, number: int) -> None:
        for connection in self.broker.connections[-1:]:
            self.broker.confirm(connection, number >> 1, multiple=bool(number & 1))

    def hear(self, number: int) -> None:
        if self.link is not None:
            self.link.hear(1 + number % 4)

    def publish(self, number: int) -> None:
        """Let messages go all the way: the usual thing."""
        if self.link is None:
            self.connect(number)
            return
        self.turn(number)
        self.take(number)
        self.confirm(number)
        self.hear(number)
        self.turn(number)

    def lose_link(self, number: int) -> None:
        """Lose the connection just when something was committed and written."""
        self.step_store(number)
        self.turn(number)
        if self.link is not None:
            self.link.lose((number % 16) / 15)

    def notice_lost(self, number: int) -> None:
        for connection in self.broker.connections:
            if connection.is_client_gone:
                self.broker.notice_the_end(connection, number % 8)
                return

    def block(self, _number: int) -> None:
        self.broker.is_blocked = True
        if self.link is not None:
            self.publisher._state.blocked("low on memory")

    def unblock(self, _number: int) -> None:
        self.broker.is_blocked = False
        if self.link is not None and self.publisher.status().is_blocked:
            self.publisher._state.unblocked()

    def unbind(self, number: int) -> None:
        self.broker.is_routable = bool(number % 3)

    # Time.

    def wait(self, number: int) -> None:
        self.clock.advance((0.05, 1.0, 6.0, 400.0)[number % 4])

    def set_clock(self, number: int) -> None:
        self.clock.jump((-3600, -5, 5, 3600)[number % 4])

    def _meanwhile(self) -> None:
        """Let the publisher and the broker go on while the store waits to try again."""
        if self.link is not None:
            self.publish(7)
        self.operator.interlude()

    # Healing.

    def _heal(self) -> Iterator[Action]:
        self.database.heal()
        self.sink.kills = False
        self.world.is_disk_low = False
        self.broker.is_routable = True
        yield "unblock", 0
        for n in range(2):
            yield "create_table", n
        for _ in range(_ROUNDS):
            yield from self._heal_a_little()
            if self._is_converged():
                return
        raise Violation(f"G2: it does not converge: {self.store.status}")

    def _heal_a_little(self) -> Iterator[Action]:
        for n in range(2):
            yield "open_feed", n
            yield "serve", n | 4
            feed = self.tables[n].feed
            # Nothing is written any more: a snapshot that was overflowed stays quiet.
            is_quiet = feed is not None and feed.response is None
            yield "wait_for_server" if is_quiet else "read", n
        if self.ledger.parked and self.store.status.is_full:
            yield "discard_parked", 0
        for n, feed in enumerate(self.store.status.feeds.values()):
            if feed.state is FeedState.GUARDED:
                yield "accept_deletes", n
        for _ in range(2):
            yield "step_store", 0
        for connection in list(self.broker.connections):
            if connection.is_client_gone:
                yield "notice_lost", 7
        yield "connect", 0
        for _ in range(3):
            yield "publish", 7
        yield "wait", 1
        yield "turn", 0

    def _is_converged(self) -> bool:
        return (
            all(feed.state is FeedState.READY for feed in self.store.status.feeds.values())
            and all(lane.is_open and lane.is_quiet for lane in self.lanes)
            and all(table.feed and table.feed.is_idle for table in self.tables)
            and not self.ledger.pending
            and not self.inbox._items
            and not self.inbox._outcomes
        )
