"""What is read of a WebSocket client's bytes without the parser."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Event, Ping, Pong, TextMessage

from heliograph.http.wire.frames import PING, PONG, TEXT, plain_frames, whole_messages

PAYLOADS = st.binary(max_size=200) | st.sampled_from([b"x" * 126, b"x" * 65_535, b"x" * 65_536])


@given(st.lists(PAYLOADS, max_size=4))
def test_complete_frames_are_whole(payloads: list[bytes]) -> None:
    """Any number of complete, unfragmented frames of any length leaves nothing to remember."""
    client = Connection(ConnectionType.CLIENT)
    data = b"".join(client.send(BytesMessage(payload)) for payload in payloads)
    assert whole_messages(data)
    assert whole_messages(data + client.send(Ping(b"x")))


@given(PAYLOADS, st.integers(min_value=1))
def test_a_cut_frame_is_not_whole(payload: bytes, cut: int) -> None:
    """A frame without its end has to be remembered."""
    data = Connection(ConnectionType.CLIENT).send(BytesMessage(payload))
    assert not whole_messages(data[: max(1, len(data) - 1 - cut % len(data))])


def test_a_fragment_is_not_whole() -> None:
    """The first part of a fragmented message has to be remembered, even an empty one."""
    client = Connection(ConnectionType.CLIENT)
    assert not whole_messages(client.send(BytesMessage(b"", message_finished=False)))


CONTROLS = st.binary(max_size=125)
SAID = st.one_of(
    st.text(max_size=40).map(TextMessage), CONTROLS.map(Ping), CONTROLS.map(Pong), st.just(BytesMessage(b"x"))
)


def _as_read(event: Event) -> tuple[int, bytes]:
    match event:
        case TextMessage():
            return TEXT, event.data.encode()
        case Ping():
            return PING, bytes(event.payload)
        case Pong():
            return PONG, bytes(event.payload)
    raise AssertionError(event)


@given(st.lists(SAID, max_size=4))
def test_plain_frames_are_read_as_the_parser_reads_them(said: list[TextMessage | Ping | Pong]) -> None:
    """What is read without the parser is what the client has said; anything but short frames is not read."""
    client = Connection(ConnectionType.CLIENT)
    data = b"".join(client.send(event) for event in said)
    server = Connection(ConnectionType.SERVER)
    server.receive_data(data)
    events = list(server.events())
    assert len(events) == len(said)
    found = plain_frames(data)
    if any(isinstance(event, BytesMessage) for event in said) or any(
        isinstance(event, TextMessage) and len(event.data.encode()) > 125 for event in said
    ):
        assert found is None
        return
    assert found == [_as_read(event) for event in events]
    assert data == b"" or plain_frames(data[:-1]) is None


@given(st.binary(max_size=30))
def test_whatever_is_wrong_is_left_to_the_parser(data: bytes) -> None:
    """Bytes that are read without the parser are such as the parser takes, and none are left over."""
    if plain_frames(data) is not None:
        server = Connection(ConnectionType.SERVER)
        server.receive_data(data)
        assert len(list(server.events())) == len(plain_frames(data) or [])
        assert whole_messages(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\x02hi",  # not masked
        b"\x81\x82\0\0\0\0\xc3\x28",  # no UTF-8
        b"\xc1\x80\0\0\0\0",  # a reserved bit
        b"\x01\x80\0\0\0\0",  # a fragment
        b"\x80\x80\0\0\0\0",  # the end of a fragmented message
        b"\x88\x82\0\0\0\0\x03\xe8",  # a close frame
    ],
)
def test_what_needs_judgement_is_left_to_the_parser(data: bytes) -> None:
    """Frames that may be wrong, and those that leave something behind, are not read here."""
    assert plain_frames(data) is None
