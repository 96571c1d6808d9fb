"""Publishing and listing events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import attrs
import trio
from werkzeug.exceptions import RequestTimeout

from heliograph.config import Settings
from heliograph.http.api import samples
from heliograph.http.api.endpoint import Described, Endpoint
from heliograph.http.api.services import Services
from heliograph.http.api.shared import ListMeta
from heliograph.http.rules.asked import Asked
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.bodies import JSON, NDJSON, ItemReader, Many
from heliograph.http.rules.parameters import (
    Flag,
    Position,
    Selectors,
    Text,
    TopicFilter,
    encode_cursor,
    header,
    page_cursor,
    page_limit,
    query,
)
from heliograph.http.rules.schema import TEXT, Components, described, listing, ref, says
from heliograph.http.rules.shapes import to_json
from heliograph.model.channels import EVERYTHING, Selection
from heliograph.model.errors import (
    Conflict,
    Invalid,
    Malformed,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from heliograph.model.event import Draft, Event
from heliograph.model.exact_json import parse_json
from heliograph.model.ids import NEWEST, OLDEST, EventId
from heliograph.model.intake import parse_items
from heliograph.model.mend import parse_leniently, read_json

MAX_REQUEST_KEY = 150
"""The most characters of ``Idempotency-Key``; in each item's key the item's number follows it."""

EXACTLY = "Only this value, exactly."
WHEN = "the log took it; a time or date in ISO 8601, or an id."


@attrs.frozen
class PublishOptions:
    """Headers of a publish request."""

    request_key: str | None = header(
        "Idempotency-Key",
        Text(1, MAX_REQUEST_KEY),
        "Makes a retry of the request harmless: the items that name no key get theirs from it, for "
        "`events.key_ttl_seconds`.",
    )
    lenient: bool = query(
        Flag(),
        "Whether to keep items with lone surrogates, NUL or wrong values, by leaving these out or replacing "
        "them; the answer lists the changes.",
        default=False,
    )


AROUND_ITEM = 64 * 1024
"""The most bytes of an item as it comes, besides its payload, which escapes may make four times as long."""


def _read_leniently(body: bytes, what: str) -> Any:
    try:
        return read_json(body)
    except Malformed as error:
        raise Malformed(f"{what}: {error}") from None


class Items:
    """The body of a publish request: one item, an array of them, or one on each line."""

    def reader(self, asked: Asked, settings: Settings) -> ItemReader:
        """Make the reader of a body."""
        most, items = settings.server.max_request_bytes, settings.events.max_per_request
        parse = _read_leniently if asked.args and asked.args.get("lenient") == "true" else parse_json
        size = settings.events.max_bytes
        return ItemReader(asked.mimetype, most, items, parse, 4 * size + AROUND_ITEM, size + AROUND_ITEM)

    def describe(self, settings: Settings, components: Components) -> Mapping[str, Any]:
        """Describe it for OpenAPI."""
        most, size = settings.events.max_per_request, settings.server.max_request_bytes
        shown = {
            "event": {"value": samples.EVENT_ITEM},
            "output": {"value": samples.OUTPUT_ITEM},
            "several": {"value": [samples.OUTPUT_ITEM, samples.STATUS_ITEM]},
        }
        lines = {
            "schema": described({**TEXT, "x-line": ref("Item")}, "One Item on each line."),
            "example": "".join(
                f"{to_json(item).decode()}\n" for item in (samples.OUTPUT_ITEM, samples.STATUS_ITEM)
            ),
        }
        items = listing(ref("Item"), minItems=1, maxItems=most)
        return {
            "required": True,
            "description": f"At most {most} items in {size} bytes; the payload of each may have "
            f"{settings.events.max_bytes} bytes. Without a Content-Type it is read as {JSON}.",
            "content": {
                JSON: {"schema": {"anyOf": [ref("Item"), items]}, "examples": shown},
                **dict.fromkeys(NDJSON, lines),
            },
        }


@attrs.frozen
class Mended:
    """An item that was kept, with parts that can't be kept left out or replaced."""

    index: Annotated[int, says("The position of the item, from 0.", minimum=0)]
    changed: Annotated[Sequence[str], says("The fault of each field.")]


@attrs.frozen
class Published:
    """The events that were kept."""

    accepted: Annotated[int, says("The number of items of the request.", minimum=1)]
    ids: Annotated[
        Sequence[EventId],
        says("The id of each item, in order; an item that was published before has its old id."),
    ]
    cursor: Annotated[EventId, says("The greatest of the ids.")]
    mended: Annotated[
        Sequence[Mended], says("With lenient: the changes that were needed to keep items.")
    ] = ()


async def publish(services: Services, who: Identity, asked: PublishOptions, items: list[Any]) -> Published:
    """Append events, all or none; the answer comes when they are durable."""
    read = partial(_drafts, services, asked, items)
    in_thread = type(items) is Many or asked.lenient  # mending may look at an item many times
    checked, mended = await trio.to_thread.run_sync(read) if in_thread else read()
    drafts = await services.executions.place(checked, who.covers)
    if who.channels:
        for channel in {draft.channel for draft in drafts}:
            who.require_channel(channel)
    receipt = await services.append(who, drafts)
    return Published(len(receipt.ids), receipt.ids, receipt.cursor, mended)


def _drafts(
    services: Services, asked: PublishOptions, items: list[Any]
) -> tuple[list[Draft], Sequence[Mended]]:
    """Make the drafts of the items; return them with the changes that were necessary.

    Raises:
        HeliographError: An item is refused.
    """
    most = services.settings.events.max_bytes
    if not asked.lenient:
        return parse_items(items, most, asked.request_key), ()
    drafts, mended = [], []
    for index, item in enumerate(items):
        draft, notes = parse_leniently(item, most, asked.request_key and f"{asked.request_key}/{index}")
        drafts.append(draft)
        if notes:
            mended.append(Mended(index, notes))
    return drafts, mended


def _event_key(event_id: int) -> EventId:
    if not OLDEST < event_id <= NEWEST:
        raise ValueError("no event has such an id")
    return EventId(event_id)


@attrs.frozen
class EventListing:
    """The filters and the page of a list of events."""

    channel: tuple[str, ...] = query(
        Selectors(), "Channels and patterns; repeatable, all if none is named.", default=()
    )
    topic: str | None = query(TopicFilter(), "A topic, a pattern such as pipeline.*, or *.")
    sender: str | None = query(Text(), EXACTLY)
    correlation_id: str | None = query(Text(), EXACTLY)
    since: EventId | None = query(Position(), f"From when {WHEN}")
    until: EventId | None = query(Position(), f"Until when {WHEN}")
    limit: int = page_limit()
    cursor: EventId | None = page_cursor(_event_key, int)

    @property
    def selection(self) -> Selection:
        """The selection by channel and topic."""
        return Selection.of(self.channel, self.topic or EVERYTHING)

    def channels(self) -> Sequence[str]:
        """Return the selectors that the caller must be allowed to read."""
        return self.selection.selectors


@attrs.frozen
class EventList:
    """A page of events."""

    events: Sequence[Event]
    total: Annotated[int, says("The number of events on this page.", minimum=0)]
    meta: ListMeta


async def history(services: Services, who: Identity, asked: EventListing) -> EventList:
    """List events, newest first, with every filter of the dashboard."""
    until = NEWEST if asked.until is None else asked.until
    before = EventId(min(asked.cursor or NEWEST, until + 1))
    look = services.store.look()
    found, more = await look.events(
        asked.selection,
        before,
        asked.limit,
        after=OLDEST if asked.since is None else asked.since,
        sender=asked.sender,
        correlation_id=asked.correlation_id,
    )
    position = look.position
    if found and asked.sender is None and asked.correlation_id is None:
        # What has been stored since then is listed, too: a stream must begin after it.
        position = max(position, found[0].id)
    following = encode_cursor(found[-1].id) if more else None
    return EventList(found, len(found), ListMeta(following, position))


ENDPOINTS = [
    Endpoint(
        "POST",
        "/api/v1/events",
        publish,
        "events",
        Described("The events are kept."),
        scope="publish",
        body=Items(),
        status=201,
        refuses=(Malformed, RequestTimeout, Conflict, TooLarge, UnsupportedMedia, Invalid, Unavailable),
        example=Published(1, [samples.OTHER.id], samples.OTHER.id),
    ),
    Endpoint(
        "GET",
        "/api/v1/events",
        history,
        "events",
        Described("A page of events."),
        channels=EventListing.channels,
        refuses=(Invalid, Unavailable),
        example=EventList([samples.ENDED, samples.OUTPUT, samples.CREATED], 3, samples.LAST_PAGE),
    ),
]
