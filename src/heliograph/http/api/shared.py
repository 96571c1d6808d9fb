"""Parts of many answers: their position in the log, and the form of tasks, events and lines."""

from __future__ import annotations

from typing import Annotated

import attrs
import orjson

from heliograph.http.rules.schema import (
    ANYTHING,
    COUNT,
    NUMBER,
    Components,
    Schema,
    described,
    nullable,
    one_of,
    record,
    says,
    text,
    whole,
)
from heliograph.http.rules.shapes import written_as
from heliograph.model.channels import CHANNEL, TOPIC
from heliograph.model.event import Event, event_json
from heliograph.model.ids import EventId
from heliograph.model.task import STATUSES, Task, task_json

StreamCursor = Annotated[
    EventId, says("The cursor of this answer: a stream that is given it as after goes on from here.")
]
NextCursor = Annotated[str | None, says("Opaque: give it back as cursor for the next page; null at the end.")]


@attrs.frozen
class Meta:
    """The position of an answer in the log."""

    stream_cursor: StreamCursor


@attrs.frozen
class ListMeta:
    """The position of a page in the log, and the cursor of the next page."""

    next_cursor: NextCursor
    stream_cursor: StreamCursor


def task_fields(components: Components) -> dict[str, Schema]:
    """Return the schemas of a task's fields."""
    return {
        **components.fields(Task, without=["cost_nanos", "earlier", "heartbeat_ms"]),
        "status": one_of(STATUSES),
        "cost_usd": described(nullable(NUMBER), "Dollars, exact to the billionth."),
        "cost_computed": described(components.of(bool), "Whether the cost comes from the price table."),
        "attempts": described(
            components.of(int), "The number of times that it began; more than one when it was resumed."
        ),
        "duration_ms": described(nullable(COUNT), "The time from start to finish; null until finished."),
        "heartbeat_seconds": described(
            nullable(NUMBER), "The longest silence that it has announced; null: it has announced none."
        ),
        "input": described(ANYTHING, "The input that its creator gave."),
    }


def _describe_task(components: Components) -> Schema:
    return record(task_fields(components), description="The state of a task, folded from its events.")


def _describe_event(components: Components) -> Schema:
    fields = {
        **components.fields(Event, without=["body"]),
        "channel": text(CHANNEL),
        "seq": described(whole(1), "1, 2, 3, … without holes within its channel."),
        "topic": text(TOPIC),
    }
    return record(fields, description="One event: something that happened.")


written_as(Task, task_json, _describe_task)
written_as(Event, lambda event: orjson.Fragment(event_json(event)), _describe_event)
