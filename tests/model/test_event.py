from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import EVENTS, json_objects

from heliograph.model.event import Event, event_json, message_json
from heliograph.model.ids import make_id, parse_id, parse_time

WHEN = datetime(2026, 1, 31, 12, 0, 0, 250000, tzinfo=UTC)


def event(topic: str, channel: str, /, **payload: Any) -> Event:
    """Make an event of this topic and payload."""
    return Event(make_id(1700000000000, 3), channel, 7, topic, WHEN, payload, "agent-1", "run-9")


@given(EVENTS)
def test_an_event_is_whole_in_json(made: Event) -> None:
    """The JSON of REST and SSE carries every field, and is one line."""
    data = event_json(made)
    assert not set(b"\r\n") & set(data)
    read = orjson.loads(data)
    assert list(read) == ["id", "channel", "seq", "topic", "sender", "timestamp", "correlation_id", "payload"]
    assert parse_id(read["id"]) == made.id
    assert parse_time(read["timestamp"], "timestamp") == made.timestamp
    assert (read["channel"], read["seq"], read["topic"]) == (made.channel, made.seq, made.topic)
    assert (read["sender"], read["correlation_id"]) == (made.sender, made.correlation_id)
    assert read["payload"] == made.payload


@given(EVENTS)
def test_every_message_says_where_it_stands(made: Event) -> None:
    """Each WebSocket message has a type, an id, a channel and a seq, whatever its payload holds."""
    read = orjson.loads(message_json(made))
    assert read["type"] in {"event", "task_output", "task_status"}
    assert (read["id"], read["channel"], read["seq"]) == (made.cursor, made.channel, made.seq)


def test_output_takes_the_form_of_the_dashboard() -> None:
    """An output line is a ``task_output`` with the payload's fields at the top."""
    message = orjson.loads(
        message_json(event("task.output", "task:a:b", task_id="a:b", output="x", stream="stderr"))
    )
    assert message == {
        "type": "task_output",
        "task_id": "a:b",
        "output": "x",
        "stream": "stderr",
        "timestamp": "2026-01-31T12:00:00.250000Z",
        "id": "1700000000000-3",
        "channel": "task:a:b",
        "seq": 7,
    }


def test_a_status_takes_the_form_of_the_dashboard() -> None:
    """A status is a ``task_status`` with its result."""
    made = event("task.status", "task:1", task_id="1", status="completed", result={"cost_usd": 0.05})
    message = orjson.loads(message_json(made))
    assert message["type"] == "task_status"
    assert (message["task_id"], message["status"], message["result"]) == (
        "1",
        "completed",
        {"cost_usd": 0.05},
    )


def test_any_other_event_keeps_its_payload_apart() -> None:
    """Other topics are an ``event`` whose payload can't be taken for the envelope."""
    message = orjson.loads(message_json(event("run.started", "workflow:w", type="evil", id="0-0", seq=99)))
    assert message == {
        "type": "event",
        "topic": "run.started",
        "sender": "agent-1",
        "payload": {"type": "evil", "id": "0-0", "seq": 99},
        "timestamp": "2026-01-31T12:00:00.250000Z",
        "correlation_id": "run-9",
        "id": "1700000000000-3",
        "channel": "workflow:w",
        "seq": 7,
    }


@given(json_objects())
def test_a_payload_never_speaks_for_the_envelope(payload: dict[str, Any]) -> None:
    """Fields of an output's payload do not override what the log says of it."""
    claims = {
        **payload,
        "output": "x",
        "type": "event",
        "id": "0-0",
        "seq": 0,
        "channel": "x",
        "timestamp": "never",
    }
    message = orjson.loads(message_json(event("task.output", "task:1", **claims)))
    assert (message["type"], message["id"], message["seq"]) == ("task_output", "1700000000000-3", 7)
    assert (message["channel"], message["timestamp"]) == ("task:1", "2026-01-31T12:00:00.250000Z")


@pytest.mark.parametrize("newline", ["\r", "\n", "\r\n", "\u2028", "\x85"])
def test_newlines_in_output_stay_inside_the_json(newline: str) -> None:
    """No newline of any kind ends a line of the encoded event."""
    made = event("task.output", "task:1", task_id="1", output=f"a{newline}data: b")
    for data in (event_json(made), message_json(made)):
        assert b"\n" not in data
        assert b"\r" not in data
        assert newline in (orjson.loads(data).get("output") or orjson.loads(data)["payload"]["output"])


def test_the_cursor_of_an_event_is_its_id() -> None:
    """An event's cursor is its id as the wire writes it."""
    assert event("a", "webhooks").cursor == "1700000000000-3"


@given(st.integers(1, 2**62))
def test_large_numbers_keep_their_value(seq: int) -> None:
    """A seq of any size is written as a whole number."""
    made = Event(make_id(1), "webhooks", seq, "a", WHEN, {})
    assert orjson.loads(event_json(made))["seq"] == seq
