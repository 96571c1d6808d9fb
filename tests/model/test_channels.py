import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.model.channels import (
    EVERYTHING,
    FAMILIES,
    KINDS_WITH_ID,
    SINGLE_CHANNELS,
    Selection,
    channel_for,
    is_channel,
    is_name,
    is_pattern,
    is_topic,
    parse_selector,
    parse_topic_pattern,
    selector_covers,
    selectors_of,
    topic_matches,
)
from heliograph.model.errors import Invalid

FIRST = st.sampled_from(string.ascii_letters + string.digits)
REST = st.text(string.ascii_letters + string.digits + "._:@+=~-", max_size=20)
NAMES = st.builds(str.__add__, FIRST, REST)
PARTS = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=10)
TOPICS = st.lists(PARTS, min_size=1, max_size=8).map(".".join)
CHANNELS = (
    st.builds("{}:{}".format, st.sampled_from(FAMILIES), NAMES)
    | TOPICS.map("topic:{}".format)
    | st.sampled_from(SINGLE_CHANNELS)
)
PATTERNS = st.sampled_from([EVERYTHING, *(f"{kind}:*" for kind in KINDS_WITH_ID)])
FEW_CHANNELS = st.sampled_from(
    ["task:1", "task:2", "task:12", "workflow:1", "topic:a.b", "webhooks", "analytics", "status"]
)
TOPIC_PATTERNS = TOPICS | TOPICS.map("{}.*".format) | st.just(EVERYTHING)


@given(CHANNELS)
def test_a_channel_is_one_and_no_pattern(channel: str) -> None:
    """Every channel of a known kind is taken as a channel, and never as a pattern."""
    assert is_channel(channel)
    assert not is_pattern(channel)
    assert parse_selector(channel) == channel


@given(PATTERNS)
def test_a_pattern_is_one_and_no_channel(pattern: str) -> None:
    """``*`` and ``kind:*`` are patterns, never channels."""
    assert is_pattern(pattern)
    assert not is_channel(pattern)
    assert parse_selector(pattern) == pattern


@given(st.none() | st.integers() | st.lists(st.text(max_size=3), max_size=3) | st.text(max_size=20))
def test_anything_else_is_no_selector(value: object) -> None:
    """What is neither is refused by an error that names the field and the forms that exist."""
    if is_channel(value) or is_pattern(value):
        return
    with pytest.raises(Invalid) as caught:
        parse_selector(value, "channel")
    (error,) = caught.value.errors
    assert error.field == "channel"
    assert "task:{id}" in error.detail


@pytest.mark.parametrize(
    "text",
    [
        "",
        "task",
        "task:",
        "task: 1",
        "task:-1",
        "task:1\n",
        "task:é",
        "task:1\0",
        "task:\u0661",
        "tasks:1",
        "TASK:1",
        "webhooks:1",
        "topic:a..b",
        "topic:a/b",
        "task:" + "x" * 129,
        "webhooks:*",
        "**",
        "task:1*",
        "task:\r\nX-Evil: 1",
    ],
)
def test_an_unknown_form_is_no_channel(text: str) -> None:
    """Names that would not pass unchanged through URLs, keys, headers and log lines are no channels."""
    assert not is_channel(text)
    assert not is_pattern(text)


@given(st.text(max_size=140))
def test_names_are_safe_everywhere(text: str) -> None:
    """A name never holds a space, a slash, a control or glob character, or anything outside ASCII."""
    if is_name(text):
        assert text.isascii()
        assert text.isprintable()
        assert not set(text) & set(" /*?[]\\\"'<>&#%\r\n\0")


@given(CHANNELS, PATTERNS | CHANNELS)
def test_covering_selectors_are_those_that_cover(channel: str, selector: str) -> None:
    """The selectors listed for a channel are just those that cover it."""
    assert (selector in selectors_of(channel)) == selector_covers(selector, channel)


def test_the_channel_itself_comes_first() -> None:
    """The selectors of a channel begin with the channel."""
    assert selectors_of("task:a:b") == ("task:a:b", "task:*", "*")
    assert selectors_of("webhooks") == ("webhooks", "*")


def test_covering_is_not_by_a_mere_prefix() -> None:
    """A channel covers no other whose name begins like it."""
    assert not selector_covers("task:1", "task:12")
    assert not selector_covers("task:*", "workflow:1")
    assert selector_covers("*", "task:*")


@given(st.lists(FEW_CHANNELS | PATTERNS, max_size=6), st.randoms(use_true_random=False))
def test_equal_selections_are_equal_values(selectors: list[str], random: object) -> None:
    """However selectors are ordered, repeated or covered by others, the same selection results."""
    shuffled = [*selectors, *selectors[:2]]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert Selection.of(selectors) == Selection.of(shuffled)
    assert hash(Selection.of(selectors)) == hash(Selection.of(shuffled))


@given(st.lists(FEW_CHANNELS | PATTERNS, max_size=6), FEW_CHANNELS)
def test_a_canonical_selection_covers_the_same_as_its_selectors(selectors: list[str], channel: str) -> None:
    """Leaving out what others cover changes nothing of what is covered."""
    meant = not selectors or any(selector_covers(selector, channel) for selector in selectors)
    assert Selection.of(selectors).covers(channel, "a.b") == meant


@given(st.lists(FEW_CHANNELS | PATTERNS, max_size=6), FEW_CHANNELS)
def test_one_selector_at_most_covers_a_channel(selectors: list[str], channel: str) -> None:
    """In a canonical selection no channel is covered twice, so no event would be delivered twice."""
    kept = Selection.of(selectors).selectors
    assert sum(selector_covers(selector, channel) for selector in kept) <= 1


@given(st.lists(FEW_CHANNELS | PATTERNS, max_size=4))
def test_the_one_channel_of_a_selection_is_named(selectors: list[str]) -> None:
    """A selection names its channel only when it is a single channel."""
    made = Selection.of(selectors)
    assert made.channel == (
        made.selectors[0] if len(made.selectors) == 1 and is_channel(made.selectors[0]) else None
    )


def test_a_selection_is_written_with_its_filter() -> None:
    """Logs and notices show the selectors, and the topic filter if there is one."""
    assert str(Selection.of(["task:2", "task:1"])) == "task:1,task:2"
    assert str(Selection.of([], "pipeline.*")) == "* topic=pipeline.*"


@given(TOPICS, TOPICS)
def test_a_topic_filter_takes_what_is_below(topic: str, below: str) -> None:
    """``a.*`` takes everything below ``a`` and not ``a`` itself; a plain filter takes just its topic."""
    assert topic_matches(topic, topic)
    assert topic_matches(EVERYTHING, topic)
    assert topic_matches(f"{topic}.*", f"{topic}.{below}")
    assert not topic_matches(f"{topic}.*", topic)
    assert not topic_matches(f"{topic}.*", f"{topic}x.{below}")
    assert not topic_matches(topic, f"{topic}.{below}")


@given(TOPIC_PATTERNS)
def test_a_topic_filter_is_read(pattern: str) -> None:
    """Topics, ``a.b.*`` and ``*`` are filters."""
    assert parse_topic_pattern(pattern) == pattern


@pytest.mark.parametrize("pattern", ["", ".", "a.", "a.*.b", "a*", "*.a", "a b", "a\n", "é", "a." * 8 + "a"])
def test_a_malformed_topic_filter_is_refused(pattern: str) -> None:
    """Anything else is refused by an error that names the field."""
    with pytest.raises(Invalid) as caught:
        parse_topic_pattern(pattern)
    assert caught.value.errors[0].field == "topic"


@given(
    TOPICS, st.dictionaries(st.sampled_from(["task_id", "workflow_id", "conversation_id"]), st.text() | NAMES)
)
def test_every_event_has_a_channel(topic: str, payload: dict[str, str]) -> None:
    """Whatever an event is about, the channel chosen for it is a channel."""
    assert is_topic(topic)
    assert is_channel(channel_for(topic, payload))


@pytest.mark.parametrize(
    ("topic", "payload", "channel"),
    [
        ("task.output", {"task_id": "1"}, "task:1"),
        ("pipeline.completed", {"task_id": "1", "workflow_id": "w"}, "workflow:w"),
        ("run.started", {"workflow_id": "w"}, "workflow:w"),
        ("conversation.message", {"task_id": "1", "conversation_id": "c"}, "conversation:c"),
        ("webhook.received", {"task_id": "1"}, "webhooks"),
        ("agent.started", {"workflow_id": "w", "task_id": "1"}, "task:1"),
        ("agent.started", {"task_id": "not a name"}, "topic:agent.started"),
        ("agent.started", {}, "topic:agent.started"),
        ("step.started", {"workflow_id": "w", "task_id": "1"}, "workflow:w"),
        ("dag.node_started", {"execution_id": "e", "pipeline": "w", "node": "n"}, "workflow:w"),
        ("agent.failed", {"execution_id": "e", "pipeline": "w"}, "workflow:w"),
        ("agent.failed", {"pipeline": "w"}, "topic:agent.failed"),
        ("agent.failed", {"execution_id": "e", "pipeline": "not a name"}, "topic:agent.failed"),
    ],
)
def test_an_event_belongs_to_what_its_topic_speaks_of(
    topic: str, payload: dict[str, str], channel: str
) -> None:
    """The payload's owner decides the channel, first of all the one that the topic is named after."""
    assert channel_for(topic, payload) == channel
