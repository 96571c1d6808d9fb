"""Publishing and listing events."""

from __future__ import annotations

from typing import Any

import orjson
from quart import Blueprint, Response, request

from heliograph.http.api.app import Services, services
from heliograph.http.rules.answer import Answer
from heliograph.http.rules.asked import Asked
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.requests import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    InTime,
    ItemReader,
    decode_cursor,
    encode_cursor,
    identity,
    refuse_unknown,
    require_utf8,
    selection,
    to_json,
    whole,
)
from heliograph.model.errors import Invalid
from heliograph.model.event import event_json
from heliograph.model.ids import NEWEST, OLDEST, EventId, format_id, parse_position
from heliograph.model.intake import parse_items

blueprint = Blueprint("events", __name__)

MAX_REQUEST_KEY = 150
"""Characters of ``Idempotency-Key``: the number of an item follows it in the key of each."""


@blueprint.post("/api/v1/events")
async def publish() -> Response:
    """Append events; answered when they are durable, all or nothing."""
    reader = item_reader(services(), request)
    async for data in InTime(request.body):
        reader.feed(data)
    return (await append_items(services(), identity(), request, reader.end())).response()


def item_reader(service: Services, asked: Asked) -> ItemReader:
    """Make the reader of a publish request's body.

    Raises:
        HeliographError: It is refused by what its head says.
    """
    refuse_unknown(asked)
    request_key = asked.headers.get("Idempotency-Key")
    if request_key is not None and not 0 < len(request_key) <= MAX_REQUEST_KEY:
        raise Invalid.field("Idempotency-Key", f"must have 1 to {MAX_REQUEST_KEY} characters")
    settings = service.settings
    return ItemReader(asked.mimetype, settings.server.max_request_bytes, settings.events.max_per_request)


async def append_items(service: Services, who: Identity, asked: Asked, items: list[Any]) -> Answer:
    """Append what a publish request carries, by every rule of it.

    Raises:
        HeliographError: It is refused, and nothing was kept.
    """
    drafts = parse_items(items, service.settings.events.max_bytes, asked.headers.get("Idempotency-Key"))
    who.require("publish", *{draft.channel for draft in drafts})
    receipt = await service.appender.append(drafts)
    answer = {
        "accepted": len(receipt.ids),
        "ids": [format_id(event_id) for event_id in receipt.ids],
        "cursor": format_id(receipt.cursor),
    }
    return Answer(201, to_json(answer))


@blueprint.get("/api/v1/events")
async def history() -> Response:
    """List events, newest first, with every filter of the dashboard."""
    texts = ("sender", "correlation_id")
    refuse_unknown(request, "topic", "channel", *texts, "since", "until", "limit", "cursor", "ticket")
    service = services()
    wanted = selection(request, service.settings.streams.max_channels)
    identity().require("read", *wanted.selectors)
    limit = whole(request, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
    filters = {name: require_utf8(request.args[name], name) for name in texts if request.args.get(name)}
    since, until = _position("since", OLDEST), _position("until", NEWEST)
    before = EventId(min(_cursor(), until + 1))
    position = await service.store.checkpoint()
    found, more = await service.store.events(wanted, before, limit, after=since, **filters)
    body = {
        "events": [orjson.Fragment(event_json(event)) for event in found],
        "total": len(found),
        "meta": {
            "next_cursor": encode_cursor(found[-1].id) if more else None,
            "stream_cursor": format_id(position),
        },
    }
    return Response(to_json(body), content_type="application/json")


def _position(name: str, default: EventId) -> EventId:
    """Read a time or an id of the query: ids begin with the time at which events were taken."""
    text = request.args.get(name)
    return default if text is None else parse_position(text.replace(" ", "+"), name)


def _cursor() -> EventId:
    cursor = decode_cursor(request, int)
    if cursor is None:
        return NEWEST
    if not OLDEST < cursor[0] <= NEWEST:
        raise Invalid.field("cursor", "must be a next_cursor of this list, unchanged")
    return EventId(cursor[0])
