"""JSON Schemas that do not come from a class of an answer: cursors, and the messages of publishers.

Messages are described by the rules that check them (``model.intake``). Schemas of answers are open: a client
must expect new fields. Schemas of messages are closed where the service is strict.
"""

from __future__ import annotations

from collections.abc import Mapping

from heliograph.http.rules.schema import TEXT, Schema, described, nullable, record, ref, text
from heliograph.model.ids import ID
from heliograph.model.intake import ENVELOPE, KIND_OF, MESSAGE_FORMS
from heliograph.model.rules import Rules
from heliograph.model.task import RESULT


def ruled(rules: Rules, **overrides: Schema) -> Schema:
    """Return the schema of an object that accepts the same values as its rules."""
    properties = {
        name: described(
            overrides.get(name, rule.schema if rule.required else nullable(rule.schema)), rule.expected
        )
        for name, rule in rules.by_name.items()
    }
    optional = [name for name, rule in rules.by_name.items() if not rule.required]
    return record(properties, optional, additionalProperties=not rules.closed)


# Messages that publishers send


_RESULT = {
    "anyOf": [
        ref("Result"),
        described(TEXT, "A text is the same as an object with the text as stdout."),
        {"type": "null"},
    ]
}


def _payload_rule(topic: str) -> Schema:
    """Return the schema of one topic's payload; the channel may name its entity instead."""
    kind = KIND_OF[topic]
    schema = ruled(kind.topics[topic], **({"result": _RESULT} if topic == "task.status" else {}))
    schema = {**schema, "required": [name for name in schema["required"] if name != kind.field]}
    of_topic = {"properties": {"topic": {"const": topic}}}
    return {"if": of_topic, "then": {"properties": {"payload": nullable(schema)}}}


EVENT_ITEM = {
    **ruled(ENVELOPE),
    "allOf": [_payload_rule(topic) for topic in KIND_OF],
    "description": "The event form. Without a channel it is chosen by what the payload belongs to. What "
    "else a payload says is kept as it is; one of output may say partial and rewind, as a Line does.",
}
_MESSAGE_ITEMS = {
    kind: ruled(rules, type={"const": kind}, **({"result": _RESULT} if kind == "task_status" else {}))
    for kind, (_, rules) in MESSAGE_FORMS.items()
}
GIVEN: Mapping[str, Schema] = {
    "Cursor": described(
        text(ID, examples=["1795328004217-0"]),
        "An event's id, `<milliseconds>-<sequence>`, ordered over the whole deployment, as a position.",
    ),
    "Result": described(ruled(RESULT), "The outcome of a task; its further fields belong to its publisher."),
    "EventItem": EVENT_ITEM,
    "TaskOutputItem": _MESSAGE_ITEMS["task_output"],
    "TaskStatusItem": _MESSAGE_ITEMS["task_status"],
    "Item": {"oneOf": [ref("EventItem"), ref("TaskOutputItem"), ref("TaskStatusItem")]},
}
"""The schemas by name."""
