from bisect import bisect
from datetime import UTC, datetime

import orjson
import pytest
import wsproto.events
from hypothesis import given
from hypothesis import strategies as st
from tests.http.received import EventSource, read_chunked, read_frames, read_texts
from tests.strategies import EVENTS, TEXT, json_objects

from heliograph.config import EventSettings
from heliograph.http.wire.frames import (
    LAST_CHUNK,
    PING,
    PONG,
    chunk,
    close_frame,
    event_block,
    event_chunk,
    event_frame,
    frame,
    json_frame,
    nameless_block,
    notice_block,
    sse_block,
)
from heliograph.http.wire.frames import (
    TEXT as TEXT_FRAME,
)
from heliograph.model.errors import TooLarge
from heliograph.model.event import Draft, Event, event_json, message_json, plain_json
from heliograph.model.ids import EventId, format_id, make_id
from heliograph.model.intake import parse_item

WHEN = datetime(2026, 1, 31, 12, tzinfo=UTC)
LOOK_ALIKES = ["\r", "\n", "\r\n", "\u2028", "\x85", "data: x", "id: 9", "\n\n", ""]
NEWLINES = st.lists(st.sampled_from(LOOK_ALIKES)).map("".join)


def read_events(data: bytes) -> EventSource:
    """Read blocks as an EventSource does."""
    source = EventSource()
    source.feed(data.decode())
    return source


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_text_frame_is_read_back(text: str) -> None:
    """Any text comes out of a client's parser as it went into the frame, in one final message."""
    (event,) = read_frames(frame(TEXT_FRAME, text.encode()))
    assert isinstance(event, wsproto.events.TextMessage)
    assert (event.data, event.message_finished) == (text, True)


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 70000])
def test_each_form_of_length_is_read_back(length: int) -> None:
    """Frames at the borders between the three forms of length are whole, and unmasked."""
    made = frame(TEXT_FRAME, b"x" * length)
    assert read_texts(made) == ["x" * length]
    assert made[1] & 0x80 == 0
    assert len(made) - length == (2 if length < 126 else 4 if length < 65536 else 10)


@given(st.lists(EVENTS, max_size=5))
def test_frames_join_to_messages(events: list[Event]) -> None:
    """Frames written one behind the other are the messages of their events, in order."""
    data = b"".join(map(event_frame, events))
    assert [text.encode() for text in read_texts(data)] == [message_json(event) for event in events]


@pytest.mark.parametrize(("opcode", "kind"), [(PING, wsproto.events.Ping), (PONG, wsproto.events.Pong)])
def test_pings_and_pongs_carry_their_payload(opcode: int, kind: type[wsproto.events.Ping]) -> None:
    """Control frames are read as what they are, with their payload."""
    (event,) = read_frames(frame(opcode, b"hello"))
    assert type(event) is kind
    assert bytes(event.payload) == b"hello"


@given(st.integers(3000, 4999), st.text(st.characters(exclude_categories=["Cs"])))
def test_a_close_frame_has_code_and_reason(code: int, reason: str) -> None:
    """A close frame is read with its code, and its reason cut at a character, within 125 bytes in all."""
    made = close_frame(code, reason)
    assert len(made) <= 127
    (event,) = read_frames(made)
    assert isinstance(event, wsproto.events.CloseConnection)
    assert event.code == code
    assert reason.startswith(event.reason or "")
    assert len((event.reason or "").encode()) > 119 or (event.reason or "") == reason


@given(json_objects())
def test_a_control_message_is_json(message: dict[str, object]) -> None:
    """A control message is one text frame of its JSON."""
    (text,) = read_texts(json_frame(message))
    assert orjson.loads(text) == message


@given(EVENTS)
def test_a_block_dispatches_one_event(event: Event) -> None:
    """A block is one event of an EventSource: its topic, its JSON and its id as the last one seen."""
    source = read_events(event_block(event))
    (dispatched,) = source.events
    assert (dispatched.event, dispatched.last_id) == (event.topic, event.cursor)
    assert dispatched.data.encode() == event_json(event)


@given(NEWLINES, NEWLINES, NEWLINES)
def test_no_text_breaks_out_of_its_block(output: str, sender: str, name: str) -> None:
    """Newlines of every kind and look-alike fields in payload, sender or names stay inside the data."""
    event = Event(make_id(7), "task:1", 1, "task.output", WHEN, {"output": output, name: 1}, sender, sender)
    source = read_events(event_block(event))
    assert [one.last_id for one in source.events] == [event.cursor]
    read = source.events[0].json()
    assert (read["payload"], read["sender"]) == ({"output": output, name: 1}, sender)


@given(st.lists(EVENTS | st.integers(0, 2**62), max_size=6), st.booleans())
def test_blocks_join_and_move_the_cursor(items: list[Event | int], named: bool) -> None:
    """Blocks behind each other are all dispatched, and each moves the cursor to its id."""
    event_block_ = event_block if named else nameless_block
    data = b"".join(
        notice_block("keepalive", {}, format_id(item), named=named)
        if isinstance(item, int)
        else event_block_(item)
        for item in items
    )
    source = read_events(data)
    assert [one.last_id for one in source.events] == [
        format_id(item if isinstance(item, int) else item.id) for item in items
    ]
    topics = ["keepalive" if isinstance(item, int) else item.topic for item in items]
    assert [one.json()["topic"] for one in source.events] == topics
    assert [one.event for one in source.events] == (topics if named else ["message"] * len(items))


@given(TEXT, st.sampled_from(["\u0085", "\u2028", "\u2029"]), TEXT)
def test_no_reader_finds_another_end_of_line(before: str, end: str, after: str) -> None:
    """What some readers take for the end of a line is escaped in frames and blocks, and reads the same."""
    text = before + end + after
    event = Event(make_id(7), "task:1", 1, "task.output", WHEN, {"output": text}, text, text)
    for data in (event_block(event), notice_block("gap", {"reason": text}, "1-0"), event_frame(event)):
        body = data if data[:1] != b"\x81" else read_texts(data)[0].encode()
        assert not {"\u0085", "\u2028", "\u2029"} & set(body.decode())
    assert read_events(event_block(event)).events[0].json()["payload"]["output"] == text
    assert orjson.loads(read_texts(event_frame(event))[0])["output"] == text
    assert orjson.loads(read_texts(json_frame({"ref": text}))[0]) == {"ref": text}


@given(st.lists(EVENTS, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_blocks_may_come_in_any_pieces(events: list[Event], random: object) -> None:
    """Cut at any places, a stream of blocks is read the same."""
    text = b"".join(map(event_block, events)).decode()
    source = EventSource()
    while text:
        size = random.randint(1, 40)  # type: ignore[attr-defined]
        source.feed(text[:size])
        text = text[size:]
    assert [one.data.encode() for one in source.events] == [event_json(event) for event in events]


@given(st.integers(0, 10**9))
def test_the_retry_is_read(milliseconds: int) -> None:
    """The pause before a reconnect is set by a block that says more than that."""
    source = read_events(notice_block("open", {"n": 1}, "5-0", milliseconds))
    assert source.retry == milliseconds
    assert [(one.event, one.json()) for one in source.events] == [("open", {"topic": "open", "n": 1})]


def test_a_block_without_an_id_keeps_the_cursor() -> None:
    """A block that names no id leaves the client's cursor where it was."""
    source = read_events(notice_block("open", {}, "5-0") + sse_block("gap", b'{"count":1}'))
    assert [(one.event, one.last_id) for one in source.events] == [("open", "5-0"), ("gap", "5-0")]


@given(st.lists(st.binary(min_size=1, max_size=100), max_size=8))
def test_chunks_join_to_the_body(parts: list[bytes]) -> None:
    """Chunks are read by an HTTP client as the bytes that went in, up to the last one."""
    pieces = [chunk(part) for part in parts]
    assert read_chunked(pieces) == (b"".join(parts), False)
    assert read_chunked([*pieces, LAST_CHUNK]) == (b"".join(parts), True)


@given(st.lists(EVENTS, min_size=1, max_size=4))
def test_events_join_to_a_chunked_stream(events: list[Event]) -> None:
    """The chunk of an event is its block, so chunks behind each other are a stream of events."""
    body, ended = read_chunked([b"".join(map(event_chunk, events)), LAST_CHUNK])
    assert ended
    assert body == b"".join(map(event_block, events))


@given(TEXT)
def test_the_data_of_a_block_is_one_line(text: str) -> None:
    """JSON data has no raw newline, so a block has one line of data."""
    made = sse_block("x", orjson.dumps(text), "1-1")
    assert made.count(b"\n") == 4
    assert b"\r" not in made


TOPICS_OF_LARGE_EVENTS = ("task.output", ".".join(["x" * 64] * 8))


@pytest.mark.parametrize("text", ["x", "\u2028", "\u0085", "\x01", "é", "\U0001f600"])
@pytest.mark.parametrize("topic", TOPICS_OF_LARGE_EVENTS)
def test_the_largest_event_fits_a_frame_that_clients_read(topic: str, text: str) -> None:
    """Whatever is accepted by default is, with the largest envelope, a frame of at most 1 MiB."""
    limit = EventSettings().max_bytes
    around = {"sender": "\U0001f600" * 200, "correlation_id": "\u2028" * 200}

    def accepted(size: int) -> Draft | None:
        try:
            return parse_item(
                {"topic": topic, "payload": {"task_id": "x" * 128, "output": text * size}, **around}, limit
            )
        except TooLarge:
            return None

    size = bisect(range(limit), False, key=lambda size: accepted(size) is None) - 1
    largest = accepted(size)
    assert largest is not None
    assert len(plain_json(largest.body)) > limit - 20
    place = EventId(2**62), largest.channel, 2**40, largest.topic
    event = Event(*place, WHEN, largest.payload, largest.sender, largest.correlation_id)
    assert len(event_frame(event)) <= 2**20
