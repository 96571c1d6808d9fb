import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.model.test_intake import FIELDS, LIMIT, objects
from tests.strategies import json_values

from heliograph.model import mend
from heliograph.model.errors import Invalid
from heliograph.model.event import Draft
from heliograph.model.intake import parse_item
from heliograph.model.mend import LEFT_OUT, MESSAGE, parse_leniently, read_json

ITEMS = objects(*FIELDS) | st.builds(
    lambda item, payload: {**item, "payload": payload},
    objects("topic", "type", "channel", "sender", "timestamp", "key"),
    objects(*FIELDS) | json_values(),
)


@given(ITEMS, st.none() | st.just("request/0"))
@example({"type": "no such type", "x": 1}, None)
@example({"type": "task_status", "task_id": "1", "status": "failed", "result": None, "odd": 1}, None)
@example({"type": ["task_status"], "topic": {}, "payload": []}, "request/0")
@example({"topic": "task.status", "payload": {"task_id": "1", "status": "failed", "result": 5}}, None)
@example({"topic": "a.b", "un.known": 1, "": 2, ".": 3}, None)
@example({"topic": "a.b", "payload": {"task_id": [0] * 5000, "left_out": ["x" * 900] * 9}}, None)
def test_the_lenient_way_takes_any_object(item: dict[str, Any], default_key: str | None) -> None:
    """Any object of any fields becomes an event within the limit, whatever must be left out."""
    draft, changed = parse_leniently(read_json(json.dumps(item).encode()), LIMIT, default_key)
    assert len(draft.body) <= LIMIT
    assert draft.key is not None or default_key is None
    assert all(isinstance(note, str) for note in changed)


@given(json_values().filter(lambda value: not isinstance(value, dict)))
def test_the_lenient_way_takes_nothing_but_objects(value: Any) -> None:
    """A list, a text or a number is no item, in whichever way it is read."""
    with pytest.raises(Invalid):
        parse_leniently(value, LIMIT, None)


def test_an_item_of_an_unknown_type_is_kept_as_it_came() -> None:
    """What names neither a known type nor a topic is a message with all that it said, and a note why."""
    draft, changed = parse_leniently({"type": "task_ouput", "task_id": "1", "output": "x"}, LIMIT, None)
    assert draft.topic == MESSAGE
    assert {"type": "task_ouput", "task_id": "1", "output": "x"}.items() <= draft.payload.items()
    assert changed


def test_fields_beside_a_message_become_payload() -> None:
    """A field that a message may not have is kept in its payload, where any field may be."""
    item = {"type": "task_status", "task_id": "1", "status": "failed", "result": None, "odd": 1}
    draft, changed = parse_leniently(item, LIMIT, None)
    assert (draft.topic, draft.payload["odd"], LEFT_OUT in draft.payload) == ("task.status", 1, False)
    assert changed == []


def test_however_many_unknown_fields_are_left_out_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An item of 20,000 unknown fields is looked at a few times, not again and again; some are named."""
    looks = 0

    def counted(item: Any, *limits: Any) -> Draft:
        nonlocal looks
        looks += 1
        return parse_item(item, *limits)

    monkeypatch.setattr(mend, "parse_item", counted)
    item = {"topic": "a.b", "payload": {"n": 1}, **{f"x{n}": n for n in range(20_000)}}
    draft, changed = parse_leniently(item, LIMIT, None)
    assert looks <= 5
    assert draft.payload["n"] == 1
    assert draft.payload[LEFT_OUT] == changed
    assert changed[0].startswith("x0: is unknown")
