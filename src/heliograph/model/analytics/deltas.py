"""Deltas: the changes of the sums, as events on the channel ``analytics``.

A delta covers the events after one position up to and including another, and gives the change of each place
that they touch. Each delta begins where the one before it ended: its ``after`` is the other's ``through``. So
a client that has the sums as of one delta and adds all later deltas has the current sums, exactly. If the
chain can't be continued, or a delta would be too long, a reset takes its place: the client must take a new
snapshot.

A delta's idempotency key is the position where it begins. However many nodes offer one, the log keeps a
single one, so the nodes need not agree beforehand on a publisher. If the log has lost it, a reset takes its
place under another key.
"""

from __future__ import annotations

from typing import Any

import attrs
import orjson

from heliograph.model.analytics.rollup import DIMENSIONS, Cells, slot_of, slot_start
from heliograph.model.analytics.totals import Packed, unpack
from heliograph.model.channels import ANALYTICS
from heliograph.model.event import Draft, Event, kept_json
from heliograph.model.ids import EventId, format_id, parse_id, time_of

DELTA = "analytics.delta"
RESET = "analytics.reset"

MAX_BUCKETS = 500
"""The most places of a delta; a reset takes the place of a larger one."""


@attrs.frozen
class Span:
    """The events that a delta covers: those after ``after``, up to and including ``through``."""

    after: EventId
    through: EventId

    @classmethod
    def of(cls, event: Event) -> Span:
        """Return the span of a delta or a reset."""
        return cls(parse_id(event.payload["after"]), parse_id(event.payload["through"]))


def delta(span: Span, changes: Cells, open_sums: Packed) -> Draft:
    """Make the draft of a delta.

    Args:
        span: The events that it covers.
        changes: The differences of the sums.
        open_sums: The whole sums of the open slot after the change; see ``open_slot``.
    """
    buckets = [
        {
            **_slot(slot),
            **dict(zip(DIMENSIONS, dimensions, strict=True)),
            **measures(cell.sums),
        }
        for (slot, dimensions), cell in sorted(changes.items(), key=lambda item: item[0])
    ]
    opened = {**_slot(open_slot(span)), **measures(open_sums)}
    return _draft(DELTA, span, {"buckets": buckets, "open": opened})


def reset(span: Span, reason: str, attempt: int = 0) -> Draft:
    """Make the draft of a reset; ``attempt`` counts the lost ones before it at the same position."""
    return _draft(RESET, span, {"reason": reason}, attempt)


def open_slot(span: Span) -> int:
    """Return the slot that was open at the end of a span."""
    return slot_of(time_of(span.through))


def measures(sums: Packed) -> dict[str, Any]:
    """Return sums by name, with the cost in dollars added."""
    totals = unpack(sums)
    return {**totals._asdict(), "cost_usd": totals.cost_nanos / 10**9}


def _slot(slot: int) -> dict[str, Any]:
    return {"start": slot_start(slot), "end": slot_start(slot + 1)}


def _draft(topic: str, span: Span, content: dict[str, Any], attempt: int = 0) -> Draft:
    payload = {"after": format_id(span.after), "through": format_id(span.through), **content}
    body = kept_json(payload)
    return Draft(
        channel=ANALYTICS,
        topic=topic,
        payload=orjson.loads(body),
        body=body,
        sender="heliograph",
        key=f"{ANALYTICS}/{format_id(span.after)}" + (f"/{attempt}" if attempt else ""),
    )
