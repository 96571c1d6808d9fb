"""What engines and gateways really publish to Redis becomes the events that it means."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.strategies import json_values

from heliograph.model.errors import Malformed
from heliograph.model.event import Draft
from heliograph.model.intake import KIND_OF
from heliograph.model.publishers import from_pubsub, from_stream

LIMIT = 100_000
MOMENT = 1_769_860_800_250
"""2026-01-31T12:00:00.250Z in milliseconds."""


def heard(channel: str, message: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """Return channel, topic and payload of what a message of pub/sub becomes."""
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    return told(from_pubsub(channel, data, LIMIT))


def entry(kind: str, data: Any, **fields: str) -> list[Draft]:
    """Return the drafts of an entry of the stream."""
    written = {"type": kind, "data": json.dumps(data), "timestamp": "2026-01-31T12:00:00Z", **fields}
    return from_stream(f"{MOMENT}-3", {name: value.encode() for name, value in written.items()}, LIMIT)


def told(drafts: list[Draft]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return what of drafts says what happened."""
    return [(draft.channel, draft.topic, draft.payload) for draft in drafts]


RESULT = {"stdout": "out", "stderr": "", "return_code": 0}
TODAY = {
    "output": "answer",
    "raw_output": "answer\n",
    "cost_usd": 0.0123,
    "input_tokens": 10,
    "output_tokens": 20,
    "success": True,
    "error": None,
    "tool_events": [{"name": "Bash"}],
    "thinking_blocks": [],
}


@pytest.mark.parametrize(
    ("message", "status", "result"),
    [
        ({"status": "in_progress"}, "running", None),
        ({"status": "completed", "result": RESULT}, "completed", RESULT),
        ({"status": "completed", "result": TODAY}, "completed", TODAY),
        (
            {"status": "completed", "result": {"error": "Task timed out", "return_code": -1}},
            "completed",
            {"error": "Task timed out", "return_code": -1},
        ),
        ({"status": "failed", "result": {"error": "boom"}}, "failed", {"error": "boom"}),
        ({"status": "failed", "error": "boom"}, "failed", {"error": "boom"}),
        ({"status": "success", "result": "done"}, "completed", {"stdout": "done"}),
        ({"status": "Success", "result": ["a", 1]}, "completed", {"stdout": '["a",1]'}),
        ({"status": "waiting_input", "question": "Continue?"}, "waiting_input", None),
        ({"status": "canceled"}, "cancelled", None),
        (b"completed", "completed", {"stdout": "completed"}),
        (b'"failed"', "failed", {"stdout": "failed"}),
        (
            b'{"status": "completed", "result": {"stdout": "cut of',
            "completed",
            {"stdout": '{"status": "completed", "result": {"stdout": "cut of'},
        ),
    ],
)
def test_a_status_on_its_own_channel(message: Any, status: str, result: Any) -> None:
    """A channel ``task:{id}:status`` names the task; its message is a status, in words of the engine's."""
    [(channel, topic, payload)] = heard("task:a:b:status", message)
    assert (channel, topic) == ("task:a:b", "task.status")
    assert (payload["task_id"], payload["status"], payload["result"]) == ("a:b", status, result)


def test_messages_on_a_tasks_channel() -> None:
    """On ``task:{id}`` the type says what a message is, and the task is the one that it names, if it does."""
    line = {"type": "task_output", "output": "x", "host": "kept"}
    assert heard("task:1", line) == [
        ("task:1", "task.output", {"task_id": "1", "output": "x", "host": "kept"})
    ]
    assert heard("task:1", {**line, "task_id": "2"})[0][0] == "task:2"
    assert heard("task:1", {"type": "task_output", "output": {"n": 1}})[0][2]["output"] == '{"n":1}'
    assert heard("task:1", {"type": "progress", "percent": 5}) == [
        ("task:1", "task.progress", {"task_id": "1", "percent": 5})
    ]
    assert heard("task:1", {"type": "task_created", "input_message": "hi", "assigned_agent": "brain"}) == [
        ("task:1", "task.created", {"task_id": "1", "input": "hi", "agent": "brain"})
    ]
    assert heard("task:1", {"topic": "run.done", "payload": {"workflow_id": "w"}, "more": 1}) == [
        ("workflow:w", "run.done", {"workflow_id": "w", "more": 1})
    ]
    [draft] = from_pubsub("task:1", orjson.dumps({**line, "timestamp": "2026-01-31", "key": "k"}), LIMIT)
    assert (draft.timestamp, draft.key) == (datetime(2026, 1, 31, tzinfo=UTC), "k")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff line",
        b"[]",
        b"7",
        b'{"type":[]}',
        b'{"status":"odd"}',
        b'{"type":"task_output","n":1}',
        b"done",
    ],
)
def test_what_nobody_understands_is_kept_as_it_came(data: bytes) -> None:
    """A message without a meaning is an event of its task nevertheless."""
    [(channel, topic, payload)] = heard("task:1", data)
    assert (channel, topic, payload["task_id"]) == ("task:1", "task.message", "1")
    assert len(payload) > 1 or data == b'{"type":[]}'


def test_a_channel_must_name_a_task() -> None:
    """What names no task at all is refused; a name that is no id becomes the nearest one."""
    for channel in ("task:", "task::status"):
        with pytest.raises(Malformed):
            from_pubsub(channel, b"{}", LIMIT)
    assert heard("task:über 1:status", {"status": "running"})[0][0] == "task:ber-1"


@pytest.mark.parametrize(
    ("said", "active"),
    [
        ({"step": "ready", "status": "healthy", "provider": "claude", "version": "1"}, True),
        ({"step": "ready", "status": "unhealthy"}, False),
        ({"step": "auth", "status": "healthy"}, False),
    ],
)
def test_the_command_lines_status(said: dict[str, Any], active: bool) -> None:
    """``cli:status`` becomes an event that says whether the engine's command line is ready."""
    assert heard("cli:status", said) == [("status", "cli.status", {**said, "active": active})]


def test_odd_values_are_left_out_and_named() -> None:
    """Of a status with bad fields the outcome arrives, without them; its result names each."""
    said = {
        "status": "completed",
        "timestamp": "yesterday",
        "sender": 5,
        "result": {"stdout": "s", "cost_usd": "cheap", "input_tokens": -1, "output_tokens": 7},
    }
    [draft] = from_pubsub("task:1:status", orjson.dumps(said), LIMIT)
    result = draft.payload["result"]
    assert {"stdout", "output_tokens", "left_out"} == result.keys()
    assert {note.partition(": ")[0] for note in result["left_out"]} == {
        "timestamp",
        "sender",
        "payload.result.cost_usd",
        "payload.result.input_tokens",
    }
    assert (draft.timestamp, draft.sender) == (None, None)


def test_an_event_that_lacks_what_its_topic_needs_is_kept() -> None:
    """Of a topic with rules, whosever it is, a payload that can't be mended becomes a message."""
    for topic in KIND_OF:
        [(_, kept, payload)] = heard("task:1", {"topic": topic, "channel": "webhooks", "payload": {"n": 1}})
        assert kept == (topic if topic in {"task.created", "task.cost", "task.heartbeat"} else "task.message")
        assert payload["n"] == 1


def test_half_a_character_and_nul_are_replaced() -> None:
    """A text that was cut inside an emoji, bytes that are no UTF-8 and NUL cost nothing but themselves."""
    result = rb'{"stdout":"done \ud83d","a\u0000":"\u0000b %s","e":"\ud83d\ude00"}' % b"\xff"
    data = b'{"status":"completed","result":%s}' % result
    [(_, _, payload)] = heard("task:cut:status", data)
    assert payload["result"] == {"stdout": "done \ufffd", "a␀": "␀b \ufffd", "e": "😀"}


def test_numbers_that_are_none_become_text() -> None:
    """What JSON's numbers can't be kept as stays readable, and a cost of it is left out."""
    result = b'{"cost_usd":NaN,"a":-Infinity,"b":1e999,"c":123456789012345678901234567890}'
    data = b'{"status":"failed","result":%s}' % result
    [(_, _, payload)] = heard("task:1:status", data)
    left_out = payload["result"].pop("left_out")
    assert payload["result"] == {"a": "-Infinity", "b": "1e999", "c": "123456789012345678901234567890"}
    assert [note.partition(":")[0] for note in left_out] == ["payload.result.cost_usd"]


def test_what_is_too_large_is_cut() -> None:
    """The longest texts are cut until the outcome fits; where there are none, the largest members go."""
    big = {"status": "completed", "result": {"stdout": "é\n" * 200_000, "raw": "x" * 50_000, "cost_usd": 1}}
    [draft] = from_pubsub("task:1:status", orjson.dumps(big), LIMIT)
    result = draft.payload["result"]
    assert len(draft.body) <= LIMIT
    assert (draft.payload["status"], result["cost_usd"], result["raw"]) == ("completed", 1, "x" * 50_000)
    assert any("payload.result.stdout" in note for note in result["left_out"])
    many = {"status": "failed", "result": {"items": list(range(100_000)), "error": "boom"}}
    [draft] = from_pubsub("task:1:status", orjson.dumps(many), LIMIT)
    assert draft.payload["result"] == {"error": "boom", "left_out": ["payload.result.items: was too large"]}


def test_what_is_nested_too_deep_becomes_text() -> None:
    """Beyond the depth that everything takes, a value is kept as its JSON."""
    deep: Any = "x"
    for _ in range(150):
        deep = [deep]
    [draft] = from_pubsub(
        "task:1:status", orjson.dumps({"status": "failed", "result": {"deep": deep}}), LIMIT
    )
    inner = draft.payload["result"]["deep"]
    while isinstance(inner, list):
        [inner] = inner
    assert '["x"]' in inner
    assert "payload" in draft.payload["result"]["left_out"][0]


TASK = {"task_id": "t"}


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        (
            "task:created",
            {"session_id": "s", "input_message": "hi", "source": "api", "assigned_agent": "brain"},
            [("task.created", {"session_id": "s", "input": "hi", "source": "api", "agent": "brain"})],
        ),
        (
            "task:started",
            {"session_id": "s", "assigned_agent": "brain", "conversation_id": "c"},
            [
                ("task.created", {"session_id": "s", "agent": "brain", "conversation_id": "c"}),
                ("task.status", {"status": "running", "result": None}),
            ],
        ),
        (
            "task:context_built",
            {"enriched_prompt": "p", "flow_id": "f", "conversation_id": "c", "source_metadata": {"a": 1}},
            [
                ("task.created", {"flow_id": "f", "conversation_id": "c", "source_metadata": {"a": 1}}),
                (
                    "task.context_built",
                    {
                        "enriched_prompt": "p",
                        "flow_id": "f",
                        "conversation_id": "c",
                        "source_metadata": {"a": 1},
                    },
                ),
            ],
        ),
        (
            "task:thinking",
            {"type": "thinking", "content": "hm"},
            [("task.thinking", {"type": "thinking", "content": "hm"})],
        ),
        (
            "task:tool_call",
            {"type": "tool_call", "name": "Bash", "input": {"command": "ls"}, "_tool_use_id": "u"},
            [
                (
                    "task.tool_call",
                    {"type": "tool_call", "name": "Bash", "input": {"command": "ls"}, "_tool_use_id": "u"},
                )
            ],
        ),
        (
            "task:tool_result",
            {"name": "Bash", "content": "x", "is_error": False},
            [("task.tool_result", {"name": "Bash", "content": "x", "is_error": False})],
        ),
        ("task:raw_output", {"raw_output": "x"}, [("task.raw_output", {"raw_output": "x"})]),
        ("task:output", {"content": "the answer"}, [("task.output", {"output": "the answer"})]),
        (
            "task:completed",
            {
                "status": "completed",
                "result": "the answer",
                "duration_seconds": 1.5,
                "cost_usd": 0.01,
                "input_tokens": 1,
                "output_tokens": 2,
                "session_id": "s",
                "conversation_id": "c",
            },
            [
                ("task.created", {"session_id": "s", "conversation_id": "c"}),
                (
                    "task.status",
                    {
                        "status": "completed",
                        "result": {
                            "stdout": "the answer",
                            "duration_seconds": 1.5,
                            "cost_usd": 0.01,
                            "input_tokens": 1,
                            "output_tokens": 2,
                        },
                    },
                ),
            ],
        ),
        (
            "task:completed",
            {"status": "failed", "result": {"error": "e"}, "cost_usd": None},
            [("task.created", {}), ("task.status", {"status": "failed", "result": {"error": "e"}})],
        ),
        (
            "task:failed",
            {"error": "boom"},
            [("task.created", {}), ("task.status", {"status": "failed", "result": {"error": "boom"}})],
        ),
        (
            "task:response_posted",
            {"method": "mcp", "source": "github", "mcp_detected": True, "fallback_posted": False},
            [
                (
                    "task.response_posted",
                    {"method": "mcp", "source": "github", "mcp_detected": True, "fallback_posted": False},
                )
            ],
        ),
    ],
)
def test_what_an_engine_writes_into_the_stream(kind: str, data: Any, expected: Any) -> None:
    """Each type of an engine's entries becomes the events of its task that it means."""
    drafts = entry(kind, data, task_id="t")
    assert told(drafts) == [("task:t", topic, {**TASK, **payload}) for topic, payload in expected]
    assert [draft.key for draft in drafts] == [f"bridge/{MOMENT}-3/{n}" for n in range(len(drafts))]
    assert {draft.timestamp for draft in drafts} == {datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC)}
    assert told(entry(kind, {**data, **TASK})) == told(drafts)


@pytest.mark.parametrize(
    "kind",
    [
        *("webhook:received", "webhook:validated", "webhook:payload", "webhook:matched", "webhook:skipped"),
        *("response:immediate", "notification:ops", "knowledge:query", "knowledge:result"),
    ],
)
def test_what_a_gateway_writes_into_the_stream(kind: str) -> None:
    """It is an event of the webhooks, found by the id of its delivery, and of its task if it names one."""
    topic, data = kind.replace(":", "."), {"source": "github"}
    drafts = entry(kind, data, webhook_event_id="w")
    assert told(drafts) == [("webhooks", topic, {**data, "webhook_event_id": "w"})]
    assert drafts[0].correlation_id == "w"
    drafts = entry(kind, {**data, **TASK}, webhook_event_id="w")
    payload = {**data, **TASK, "webhook_event_id": "w"}
    assert told(drafts) == [("webhooks", topic, payload), ("task:t", topic, payload)]


def test_a_webhook_that_made_a_task_describes_it() -> None:
    """What the gateway says of the task that it made describes the task, should the engine never do."""
    data = {**TASK, "source": "github", "event_type": "issues", "input_message": "fix"}
    drafts = entry("webhook:task_created", data, webhook_event_id="w")
    assert [(draft.channel, draft.topic) for draft in drafts] == [
        ("webhooks", "webhook.task_created"),
        ("task:t", "task.created"),
        ("task:t", "webhook.task_created"),
    ]
    assert drafts[1].payload == {**TASK, "source": "github", "input": "fix"}


@pytest.mark.parametrize(
    ("said", "moment"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.250000+00:00"),
        ("2026-01-31T11:59:59Z", "2026-01-31T11:59:59+00:00"),
        ("2026-01-31T12:00:00.100Z", "2026-01-31T12:00:00.100000+00:00"),
        ("noon", "2026-01-31T12:00:00.250000+00:00"),
    ],
)
def test_an_entry_happened_when_it_says(said: str, moment: str) -> None:
    """Whole seconds are made precise by the entry's id; a time that is none is replaced by it."""
    [draft] = entry("task:output", {"content": "x"}, task_id="t", timestamp=said)
    assert draft.timestamp is not None
    assert draft.timestamp.isoformat() == moment


def test_an_entry_of_anybody_is_kept() -> None:
    """Entries without a type, data, or task that anybody knows are events, too."""
    assert told(from_stream("1-0", {}, LIMIT)) == [("topic:task.message", "task.message", {})]
    assert told(from_stream("1-0", {"type": b"task:output"}, LIMIT))[0][1] == "task.message"
    assert told(entry("deploy:done", {"n": 1})) == [("topic:deploy.done", "deploy.done", {"n": 1})]
    assert told(from_stream("1-0", {"type": b"a b", "data": b"\xff"}, LIMIT))[0][2] == {"text": "\ufffd"}


@given(
    channel=st.sampled_from(["task:1", "task:1:status", "cli:status", "task:\ufffd:x:status"]),
    data=st.binary()
    | json_values().map(lambda value: orjson.dumps(value, default=str))
    | st.fixed_dictionaries(
        {},
        optional={
            name: json_values()
            for name in (
                "type",
                "status",
                "result",
                "task_id",
                "output",
                "topic",
                "payload",
                "key",
                "channel",
            )
        },
    ).map(lambda value: json.dumps(value, default=str).encode()),
)
@example("task:1", b'{"topic":"task.output","payload":7,"channel":"analytics","key":"bridge/1"}')
@example("task:1:status", b'{"topic":"task.created","payload":{"metadata":5,"agent":["x"]}}')
def test_whatever_is_published_is_kept(channel: str, data: bytes) -> None:
    """No bytes on a channel that names a task are refused, or more than the limit, or unreadable later."""
    for draft in from_pubsub(channel, data, 2000):
        assert len(draft.body) <= 2000
        assert orjson.loads(draft.body) == draft.payload


@given(
    fields=st.dictionaries(st.sampled_from(["type", "task_id", "timestamp", "data", "x"]), st.binary()),
    data=st.dictionaries(
        st.sampled_from(["task_id", "status", "result", "content", "metadata", "name"]), json_values()
    ),
    kind=st.sampled_from(["task:created", "task:completed", "task:output", "webhook:x", "task_id", ":", ""]),
)
def test_whatever_is_in_the_stream_is_kept(fields: dict[str, bytes], data: dict[str, Any], kind: str) -> None:
    """No entry is refused, whatever it says."""
    said = {"data": json.dumps(data, default=str).encode(), "type": kind.encode(), **fields}
    assert from_stream("5-1", said, 2000)
