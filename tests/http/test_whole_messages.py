"""Whether a WebSocket client's bytes leave something for the parser to remember."""

from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Ping

from heliograph.http.wire.frames import whole_messages

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
