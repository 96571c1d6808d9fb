import json
import sys
import tracemalloc
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.strategies import CHANNELS, NAMES, TOPICS, json_objects, json_values

from heliograph.model.channels import RESERVED_TOPICS, is_channel, is_topic
from heliograph.model.errors import ClientFault, Invalid, Malformed, TooLarge
from heliograph.model.event import Draft, Event, event_json, message_json
from heliograph.model.exact_json import parse_json
from heliograph.model.ids import EPOCH, make_id
from heliograph.model.intake import (
    MAX_DEPTH,
    parse_item,
    parse_items,
)
from heliograph.model.rules import DESCRIPTION_BYTES
from heliograph.model.task import DESCRIPTIONS, STATUSES, Task

LIMIT = 2000
ANY_TEXT = st.text(max_size=20) | st.sampled_from(
    ["\0", "a\0b", "\r\n\r\n", "\u2028", "\ud800", "\U0001f6f0"]
)
MESSAGE_TYPES = ["task_output", "task_status"]
TASK_TOPICS = ["task.created", "task.output", "task.status"]

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "topic": st.sampled_from(TASK_TOPICS) | TOPICS,
    "type": st.sampled_from(MESSAGE_TYPES),
    "task_id": NAMES,
    "output": ANY_TEXT,
    "stream": st.sampled_from(["stdout", "stderr", "stdin"]),
    "status": st.sampled_from(STATUSES),
    "result": json_objects(ANY_TEXT)
    | st.fixed_dictionaries(
        {},
        optional={
            "cost_usd": st.floats() | st.integers(),
            "input_tokens": st.integers(),
            "error": json_values(),
        },
    ),
    "channel": CHANNELS,
    "sender": ANY_TEXT,
    "correlation_id": ANY_TEXT,
    "timestamp": st.datetimes().map(datetime.isoformat) | ANY_TEXT,
    "key": ANY_TEXT,
    "metadata": json_objects(ANY_TEXT),
}


def objects(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Draw objects whose members are often what they should be, often not, and sometimes unknown."""
    fields = {name: FIELDS[name] | FIELDS[name] | json_values(ANY_TEXT) for name in names}
    known = st.fixed_dictionaries({}, optional=fields)
    return known | st.builds(lambda one, other: {**one, **other}, known, json_objects(ANY_TEXT))


ENVELOPE = ("channel", "sender", "correlation_id", "timestamp", "key")
PAYLOADS = objects("task_id", "output", "stream", "status", "result", "metadata")
EVENT_FORM = st.builds(
    lambda envelope, topic, payload: {**envelope, "topic": topic, "payload": payload},
    objects(*ENVELOPE),
    FIELDS["topic"],
    PAYLOADS | json_values(ANY_TEXT),
)
MESSAGE_FORM = objects("type", "task_id", "output", "stream", "status", "result", *ENVELOPE)
TASK_OUTPUT = st.fixed_dictionaries({"type": st.just("task_output"), "task_id": NAMES, "output": ANY_TEXT})
ITEMS = EVENT_FORM | MESSAGE_FORM | TASK_OUTPUT | json_values(ANY_TEXT)


def item(**fields: Any) -> dict[str, Any]:
    """Make a valid item of output, with some fields replaced; ``...`` leaves a field out."""
    made = {"topic": "task.output", "payload": {"task_id": "1", "output": "x"}, **fields}
    return {name: value for name, value in made.items() if value is not ...}


def bad_fields(given_item: Any) -> set[str]:
    """Return the paths that make an item invalid."""
    with pytest.raises(Invalid) as caught:
        parse_item(given_item, LIMIT)
    assert all(error.detail for error in caught.value.errors)
    return {error.field for error in caught.value.errors}


def check_usable(draft: Draft) -> None:
    """Check that everything behind the intake can work with a draft."""
    assert is_channel(draft.channel)
    assert draft.channel != "analytics"
    assert is_topic(draft.topic)
    assert orjson.loads(draft.body) == draft.payload
    assert len(draft.body) <= LIMIT
    texts = [draft.body.decode(), draft.sender, draft.correlation_id, draft.key]
    assert not any("\0" in text or "\\u0000" in text.replace("\\\\", "") for text in texts if text)
    assert draft.timestamp is None or draft.timestamp >= EPOCH
    event = Event(
        make_id(1), draft.channel, 1, draft.topic, draft.timestamp or datetime.now(UTC), draft.payload
    )
    assert orjson.loads(event_json(event))["payload"] == draft.payload
    assert orjson.loads(message_json(event))["channel"] == draft.channel
    if draft.channel.startswith("task:"):
        Task.first_seen(event).apply(event)


@given(st.lists(ITEMS, max_size=4), st.none() | st.just("request"))
def test_any_json_becomes_drafts_or_a_fault_of_the_client(items: list[Any], request_key: str | None) -> None:
    """Whatever JSON comes in: either every item becomes a usable draft, or the client hears what is wrong."""
    body = json.dumps(items).encode()
    try:
        drafts = parse_items(parse_json(body, "the body"), LIMIT, request_key)
    except ClientFault as fault:
        assert str(fault)  # noqa: PT017 - either outcome is right, another exception is not
    else:
        assert len(drafts) == len(items)
        for draft in drafts:
            check_usable(draft)
            assert draft.key is not None or request_key is None


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass")))
@example(b"")
@example(b"\xef\xbb\xbf{}")
@example(b"[" * 100_000)
@example(b'{"a":' * 2000)
@example(b"NaN")
@example(b"1e999")
@example(b'"\\ud800"')
@example(b'"\xed\xa0\x80"')
@example(b"{} {}")
@example(b"1" * 5000)
def test_any_bytes_are_json_or_malformed(body: bytes) -> None:
    """Bytes that are not strict JSON are refused by an error that names what was read, or a number in it."""
    try:
        parse_json(body, "line 3")
    except Invalid as invalid:
        assert "would be rounded: send it as text" in str(invalid)  # noqa: PT017 - as above
    except Malformed as malformed:
        assert str(malformed).startswith("line 3 is not valid JSON")  # noqa: PT017 - as above


def test_nul_is_told_from_the_text_that_stands_for_it() -> None:
    """A backslash and what follows it in JSON for NUL are text; NUL behind backslashes is refused, too."""
    for text in ("\\u0000", "\\\\u0000"):
        payload = {"a": [text]}
        assert parse_item({"topic": "x.y", "payload": payload}, LIMIT).payload == payload
    for text in ("\0", "\\\0", "a\\\\\0"):
        with pytest.raises(Invalid) as refused:
            parse_item({"topic": "x.y", "payload": {"a": [text]}}, LIMIT)
        assert refused.value.errors[0].field == "payload.a[0]"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'[{"a": "b"}, {"c": ["x", "y\\udc00"]}]', "[1].c[1] has half a character (U+DC00 alone)"),
        (b'{"a\\ud83d": 1}', "the name a? has half a character"),
        (b'{"a": {"b": -Infinity}}', "a.b is -Infinity, which JSON does not have"),
        (b"NaN", "is NaN, which JSON does not have"),
        ('{"a": "W\u00fcrfel"}'.encode("latin-1"), "it is not UTF-8 from byte 8 on"),
    ],
)
def test_what_is_no_json_is_named_by_its_place(body: bytes, fault: str) -> None:
    """The refusal of a text cut in a character, of NaN and of another encoding says where it is."""
    with pytest.raises(Malformed) as refused:
        parse_json(body, "the body")
    assert str(refused.value) == f"the body is not valid JSON: {fault}"


@pytest.mark.parametrize("depth", [2, MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1, 253, 254, 255, 600, 1000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_a_payload_may_not_be_nested_without_end(depth: int, opening: str, closing: str) -> None:
    """A payload nested deeper than every encoder takes is refused by name; up to the limit it is taken."""
    inner = parse_json((opening * (depth - 1) + "1" + closing * (depth - 1)).encode(), "the body")
    given_item = item(topic="a.b", payload={"deep": inner})
    if depth <= MAX_DEPTH:
        check_usable(parse_item(given_item, 10 * LIMIT))
    else:
        assert bad_fields(given_item) == {"payload"}


def test_text_that_is_no_utf8_is_not_called_nested() -> None:
    """A program's own text with half a character is refused as what it is."""
    with pytest.raises(Invalid, match="payload: can't be written as JSON: str is not valid UTF-8"):
        parse_item(item(payload={"task_id": "1", "output": "\udcff"}), LIMIT)


def test_text_full_of_brackets_is_not_nested() -> None:
    """A line that merely contains many brackets is taken."""
    assert parse_item(item(payload={"task_id": "1", "output": "[{" * 500}), LIMIT).topic == "task.output"


@pytest.mark.parametrize(
    ("given_item", "fields"),
    [
        ([], {""}),
        ("text", {""}),
        (None, {""}),
        ({}, {"topic"}),
        (item(topic=...), {"topic"}),
        (item(topic=5), {"topic"}),
        (item(topic="a b"), {"topic"}),
        (item(topic="task.output\n"), {"topic"}),
        (item(topik="x"), {"topik"}),
        (item(payload=[]), {"payload"}),
        (item(payload={}), {"payload.task_id", "payload.output"}),
        (
            item(payload={"task_id": 1, "output": 2, "stream": "stdin"}),
            {"payload.task_id", "payload.output", "payload.stream"},
        ),
        (item(payload={"task_id": "1", "output": "a\0b"}), {"payload.output"}),
        (item(payload={"task_id": "1", "output": "x", "more": {"a": ["\0"]}}), {"payload.more.a[0]"}),
        (item(payload={"task_id": "1", "output": "x", "a\0": 1}), {"payload"}),
        (item(channel="task:2"), {"channel"}),
        (item(channel="nowhere"), {"channel"}),
        (item(channel="task:*"), {"channel"}),
        (item(topic="a", channel="analytics"), {"channel"}),
        (item(timestamp="yesterday"), {"timestamp"}),
        (item(timestamp=5), {"timestamp"}),
        (item(timestamp="1969-01-01T00:00:00Z"), {"timestamp"}),
        (item(sender="x" * 201), {"sender"}),
        (item(sender="\0"), {"sender"}),
        (item(key=""), {"key"}),
        (item(key="x" * 201), {"key"}),
        (item(key="analytics/1-0"), {"key"}),
        (item(key="bridge/a/1"), {"key"}),
        (item(topic="task.status", payload={"task_id": "1", "status": "done"}), {"payload.status"}),
        (
            item(
                topic="task.status",
                payload={
                    "task_id": "1",
                    "status": "failed",
                    "result": {"cost_usd": -1, "input_tokens": 1.5, "output_tokens": True},
                },
            ),
            {"payload.result.cost_usd", "payload.result.input_tokens", "payload.result.output_tokens"},
        ),
        (
            item(topic="task.created", payload={"task_id": "1", "name": 5, "metadata": []}),
            {"payload.name", "payload.metadata"},
        ),
        ({"type": "task_outputs"}, {"type"}),
        ({"type": ["task_output"]}, {"type"}),
        ({"type": "task_output"}, {"task_id", "output"}),
        ({"type": "task_output", "task_id": "1", "output": "x", "status": "running"}, {"status"}),
        ({"type": "task_status", "task_id": "1", "status": "running", "channel": "task:1"}, {"channel"}),
        (
            {"type": "task_status", "task_id": "1", "status": "completed", "result": {"cost_usd": 10**10}},
            {"result.cost_usd"},
        ),
    ],
)
def test_each_bad_field_is_named(given_item: Any, fields: set[str]) -> None:
    """An invalid item is refused with the path of every bad field."""
    assert bad_fields(given_item) == fields


def test_an_error_says_what_would_be_right() -> None:
    """The detail of a bad field says what is expected, and an unknown one what is known."""
    with pytest.raises(Invalid) as caught:
        parse_item(item(topic=5, chanel="task:1"), LIMIT)
    details = {error.field: error.detail for error in caught.value.errors}
    assert "task.output" in details["topic"]
    assert "channel" in details["chanel"]


@pytest.mark.parametrize("topic", sorted(RESERVED_TOPICS))
def test_what_streams_say_themselves_is_no_topic(topic: str) -> None:
    """A topic that a stream's own word or an EventSource's own event is called is refused with the reason."""
    with pytest.raises(Invalid, match="streams use these names themselves") as caught:
        parse_item({"topic": topic}, LIMIT)
    assert [error.field for error in caught.value.errors] == ["topic"]
    assert parse_item({"topic": f"{topic}.x"}, LIMIT).topic == f"{topic}.x"


def test_both_forms_mean_the_same() -> None:
    """The dashboard's message form and the event form of the same line make the same draft."""
    message = {
        "type": "task_output",
        "task_id": "1",
        "output": "x",
        "timestamp": "2026-01-01T00:00:00Z",
        "key": "k",
    }
    event = item(timestamp="2026-01-01T00:00:00Z", key="k")
    assert parse_item(message, LIMIT) == parse_item(event, LIMIT)


def test_a_task_is_known_by_its_channel() -> None:
    """An event on a task's channel need not repeat the task's id in its payload."""
    draft = parse_item({"topic": "task.output", "channel": "task:7", "payload": {"output": "x"}}, LIMIT)
    assert draft.payload == {"task_id": "7", "output": "x"}


def test_an_event_without_a_payload_is_one() -> None:
    """Only the topic is needed; the payload is then empty."""
    draft = parse_item({"topic": "deploy.done"}, LIMIT)
    assert (draft.channel, draft.payload, draft.body) == ("topic:deploy.done", {}, b"{}")


def test_errors_name_the_item() -> None:
    """In a batch each error carries the index of its item."""
    with pytest.raises(Invalid) as caught:
        parse_items([item(), item(topic=5), item(), item(key="")], LIMIT)
    assert [(error.index, error.field) for error in caught.value.errors] == [(1, "topic"), (3, "key")]


def test_errors_are_not_listed_without_end() -> None:
    """Of a batch full of mistakes, about a hundred are named."""
    with pytest.raises(Invalid) as caught:
        parse_items([{}] * 10_000, LIMIT)
    assert len(caught.value.errors) == 100


@pytest.mark.parametrize(("excess", "taken"), [(0, True), (1, False)])
def test_a_payload_has_a_limit_in_bytes(excess: int, taken: bool) -> None:
    """A payload of just the limit is taken; one byte more is refused with its index and the limit."""
    overhead = len(parse_item(item(payload={"task_id": "1", "output": ""}), LIMIT).body)
    big = item(payload={"task_id": "1", "output": "x" * (LIMIT - overhead + excess)})
    if taken:
        assert len(parse_items([big], LIMIT)[0].body) == LIMIT
        return
    with pytest.raises(TooLarge, match=f"item 1: .* {LIMIT + 1} bytes; at most {LIMIT}"):
        parse_items([item(), big], LIMIT)


def test_the_keys_of_a_request_are_its_items() -> None:
    """A request's key gives each item without one a key of its own; an item's own key stays."""
    drafts = parse_items([item(), item(key="mine"), item()], LIMIT, "r")
    assert [draft.key for draft in drafts] == ["r/0", "mine", "r/2"]


def test_large_numbers_are_refused_where_they_count() -> None:
    """A number of tokens beyond what can be added up is refused; elsewhere in a payload it is kept."""
    assert bad_fields(
        {"type": "task_status", "task_id": "1", "status": "failed", "result": {"input_tokens": 10**16}}
    ) == {"result.input_tokens"}
    assert parse_item(item(topic="a", payload={"n": 2**64 - 1}), LIMIT).body == b'{"n":18446744073709551615}'


@pytest.mark.parametrize(
    ("text", "taken"),
    [("x" * 1000, True), ("x" * 1001, False), ("é" * 1000, True), ("🙂" * 500, True), ("🙂" * 501, False)],
)
@pytest.mark.parametrize("field", DESCRIPTIONS)
def test_a_description_has_a_limit_in_characters_and_in_bytes(field: str, text: str, taken: bool) -> None:
    """What a task is found by must fit an index, in whatever alphabet; the refusal names both limits."""
    item = {"topic": "task.created", "payload": {"task_id": "1", field: text}}
    if taken:
        assert parse_item(item, 2**20).payload[field] == text
    else:
        with pytest.raises(Invalid) as caught:
            parse_item(item, 2**20)
        [error] = caught.value.errors
        assert error.field == f"payload.{field}"
        assert "1000 characters" in str(caught.value)
        assert f"{DESCRIPTION_BYTES} bytes" in str(caught.value)


@pytest.mark.parametrize(
    "item",
    [
        {"type": "task_status", "task_id": "1", "status": "completed", "result": "done"},
        {"topic": "task.status", "payload": {"task_id": "1", "status": "completed", "result": "done"}},
    ],
)
def test_a_result_may_be_text(item: dict[str, Any]) -> None:
    """A result that is text is what was written to stdout, in either form."""
    assert parse_item(item, 1000).payload["result"] == {"stdout": "done"}


def test_a_draft_keeps_no_more_than_its_body() -> None:
    """A thousand lines take about the bytes that they have, since thousands of events stay in memory."""
    items = [{"type": "task_output", "task_id": "1", "output": f"line {number}"} for number in range(1000)]
    parse_items(items, LIMIT)  # what is made once is not counted
    tracemalloc.start()
    try:
        bodies = [draft.body for draft in parse_items(items, LIMIT)]
        bodies += [Draft.own("status", "x.y", item, sender="me").body for item in items]
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < sum(map(sys.getsizeof, bodies)) * 1.5
