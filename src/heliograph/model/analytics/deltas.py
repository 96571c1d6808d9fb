"""Deltas: how the sums change, as events on the channel ``analytics``.

A delta covers the events after one position up to and including another, and says for each place that
they changed by how much. Each delta begins where the one before it ended: ``after`` of the one is
``through`` of the other. So who holds the sums as of one delta and adds all later ones holds the
sums of now, exactly. Where the chain can't be continued, or would be too long to say, a reset stands in for
the delta: take a new snapshot.

A delta's idempotency key is where it begins. However many nodes offer one, the log keeps a single one:
they needn't agree beforehand who publishes. Should the log have lost it, a reset stands in under another key.
"""

from __future__ import annotations

from typing import Any

import attrs
import orjson

from heliograph.model.analytics.rollup import DIMENSIONS, Cells, slot_of, slot_start
from heliograph.model.analytics.totals import Packed, unpack
from heliograph.model.channels import ANALYTICS
from heliograph.model.event import JSON_OPTIONS, Draft, Event
from heliograph.model.ids import EventId, format_id, parse_id, time_of

DELTA = "analytics.delta"
RESET = "analytics.reset"

MAX_BUCKETS = 500
"""A delta of more places is said by a reset."""


@attrs.frozen
class Span:
    """The events that a delta covers: those after ``after``, up to and including ``through``."""

    after: EventId
    through: EventId

    @classmethod
    def of(cls, event: Event) -> Span:
        """Read it from a delta or a reset."""
        return cls(parse_id(event.payload["after"]), parse_id(event.payload["through"]))


def delta(span: Span, changes: Cells, open_sums: Packed) -> Draft:
    """Write a delta.

    Args:
        span: The period that it covers.
        changes: The differences of the sums.
        open_sums: All of the open slot after the change; see ``open_slot``.
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
    """Write a reset; ``attempt`` counts the earlier ones that began at the same place and were lost."""
    return _draft(RESET, span, {"reason": reason}, attempt)


def open_slot(span: Span) -> int:
    """Return the slot that was open at the end of a span."""
    return slot_of(time_of(span.through))


def measures(sums: Packed) -> dict[str, Any]:
    """Return sums by name, and the cost in dollars, too."""
    totals = unpack(sums)
    return {**totals._asdict(), "cost_usd": totals.cost_nanos / 10**9}


def _slot(slot: int) -> dict[str, Any]:
    return {"start": slot_start(slot), "end": slot_start(slot + 1)}


def _draft(topic: str, span: Span, content: dict[str, Any], attempt: int = 0) -> Draft:
    payload = {"after": format_id(span.after), "through": format_id(span.through), **content}
    body = orjson.dumps(payload, option=JSON_OPTIONS)
    return Draft(
        channel=ANALYTICS,
        topic=topic,
        payload=orjson.loads(body),
        body=body,
        sender="heliograph",
        key=f"{ANALYTICS}/{format_id(span.after)}" + (f"/{attempt}" if attempt else ""),
    )
