"""The agents of the fleet, as far as their tasks tell of them.

Counts come from the aggregator's memory, and what the newest task of each agent says from one look into an
index for each agent of the page; so an answer costs the same however many tasks there were.
"""

from __future__ import annotations

from quart import Blueprint, Response, request

from heliograph.actors.histogram import Question
from heliograph.http.api.app import services
from heliograph.http.rules.requests import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    decode_cursor,
    encode_cursor,
    identity,
    refuse_unknown,
    require_utf8,
    to_json,
    whole,
)
from heliograph.model.analytics.cube import ALL_TIME, View
from heliograph.model.analytics.rollup import DIMENSIONS, UNKNOWN
from heliograph.model.analytics.totals import unpack
from heliograph.model.ids import format_id
from heliograph.model.task import STATUSES, TASK

blueprint = Blueprint("agents", __name__)


def _with_status(status: str) -> View:
    return View("agent", tuple(frozenset({status}) if name == "status" else None for name in DIMENSIONS))


QUESTIONS = [Question(_with_status(status), [ALL_TIME]) for status in STATUSES]


@blueprint.get("/api/agents")
async def list_agents() -> Response:
    """List agents by name, with their tasks by status and when they were last heard of."""
    refuse_unknown(request, "limit", "cursor", "ticket")
    identity().require("read", "task:*")
    service = services()
    limit = whole(request, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
    cursor = decode_cursor(request, str)
    after = require_utf8(cursor[0], "cursor") if cursor else ""
    answer = await service.histogram.ask(QUESTIONS, service.log.position)
    counts: dict[str, dict[str, int]] = {}
    for status, (sums,) in zip(STATUSES, answer.sums, strict=True):
        for name, value in sums.items():
            if value and name > after and name != UNKNOWN:
                counts.setdefault(name, dict.fromkeys(STATUSES, 0))[status] = unpack(value).created
    names = sorted(counts)
    more, names = len(names) > limit, names[:limit]
    latest = await service.store.newest(TASK, "agent", names)
    agents = [
        {
            "name": name,
            "agent_type": latest[name].agent_type if name in latest else None,
            "tasks": counts[name],
            "last_seen": latest[name].updated_at if name in latest else None,
        }
        for name in names
    ]
    meta = {
        "next_cursor": encode_cursor(names[-1]) if more else None,
        "stream_cursor": format_id(answer.cursor),
    }
    return Response(to_json({"agents": agents, "meta": meta}), content_type="application/json")
