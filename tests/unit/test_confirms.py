"""Acks that are read past pika: the same ones, in the same order, as pika itself reads."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pika import SelectConnection, frame, spec

from replicator.publisher.confirms import AcksOfChannel, ConfirmingConnection

CHANNEL = 3
Said = tuple[object, ...]


def marshal(content: Any, channel: int = CHANNEL) -> bytes:
    return frame.Method(channel, content).marshal()


TAGS = st.integers(0, 2**64 - 1)
ACKS = st.builds(spec.Basic.Ack, TAGS, st.booleans()).map(marshal)
OTHERS = st.one_of(
    st.builds(spec.Basic.Ack, TAGS, st.booleans()).map(lambda ack: marshal(ack, CHANNEL + 1)),
    st.builds(spec.Basic.Nack, TAGS, st.booleans(), st.just(value=False)).map(marshal),
    st.builds(spec.Basic.Cancel, st.text(max_size=20)).map(marshal),
    st.just(spec.Basic.Return(312, "NO_ROUTE", "exchange", "key")).map(marshal),
    st.binary(max_size=50).map(lambda body: frame.Body(CHANNEL, body).marshal()),
    st.just(frame.Heartbeat().marshal()),
)
READS = st.lists(st.integers(1, 100), min_size=1)


class Heard:
    """A connection without a socket: what it was told, by pika and past it."""

    def __init__(self, kind: type[SelectConnection], channel: int | None = None) -> None:
        made: Any = kind.__new__(kind)
        made._frame_buffer = b""
        made.bytes_received = made.frames_received = 0
        made._process_frame = self._by_pika
        self.connection = made
        self.said: list[Said] = []
        self.past_pika = 0
        if channel is not None:
            self.connection.take_acks(channel, self._ack)

    def read(self, data: bytes, sizes: list[int]) -> "Heard":
        """Take the bytes as they may come from a socket, in pieces of these sizes in turn."""
        turn = 0
        while data:
            size = sizes[turn % len(sizes)]
            self.connection._on_data_available(data[:size])
            data, turn = data[size:], turn + 1
        return self

    def _ack(self, ack: spec.Basic.Ack) -> None:
        self.past_pika += 1
        self.said.append(
            (CHANNEL, "Basic.Ack", {"delivery_tag": ack.delivery_tag, "multiple": ack.multiple})
        )

    def _by_pika(self, value: Any) -> None:
        self.connection.frames_received += 1
        method = getattr(value, "method", None)
        content = vars(method) if method is not None else getattr(value, "fragment", None)
        self.said.append((value.channel_number, getattr(method, "NAME", value.NAME), content))


@given(st.lists(ACKS | OTHERS, max_size=30), READS)
@example([marshal(spec.Basic.Ack(1)), marshal(spec.Basic.Ack(2, multiple=True))], [42])
@example([marshal(spec.Basic.Ack(1)), marshal(spec.Basic.Nack(2))], [1000])
@example([marshal(spec.Basic.Ack(1)), marshal(spec.Basic.Ack(2))], [20, 1])
def test_whatever_comes_in_whatever_pieces_is_heard_as_pika_hears_it(
    frames: list[bytes], sizes: list[int]
) -> None:
    data = b"".join(frames)
    ours = Heard(ConfirmingConnection, CHANNEL).read(data, sizes)
    pikas = Heard(SelectConnection).read(data, sizes)

    assert ours.said == pikas.said
    assert ours.connection.bytes_received == pikas.connection.bytes_received == len(data)
    assert ours.connection.frames_received == len(frames)


@given(st.lists(ACKS, min_size=1, max_size=30), READS)
def test_acks_alone_go_past_pika_wherever_a_read_cuts_them(
    frames: list[bytes], sizes: list[int]
) -> None:
    heard = Heard(ConfirmingConnection, CHANNEL).read(b"".join(frames), sizes)

    assert heard.past_pika == len(frames)


def test_nothing_goes_past_pika_before_the_channel_confirms() -> None:
    heard = Heard(ConfirmingConnection).read(marshal(spec.Basic.Ack(1)), [100])

    assert (heard.past_pika, len(heard.said)) == (0, 1)


@pytest.mark.parametrize("at", range(21))
def test_a_frame_that_differs_from_an_ack_in_one_byte_is_none(at: int) -> None:
    ack = bytearray(marshal(spec.Basic.Ack(7)))
    ack[at] ^= 0x80
    read, rest = AcksOfChannel(CHANNEL).read(bytes(ack))

    is_within_the_ack = 11 <= at < 20
    assert len(read) == is_within_the_ack
    assert rest == (b"" if is_within_the_ack else ack)
