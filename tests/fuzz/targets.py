"""The parsers that strangers' bytes meet first, each as a function of bytes that fails or returns.

A target holds what its parser promises: the errors that it may raise, and what must be true of what it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson
import wsproto.events
from wsproto.connection import Connection, ConnectionType
from wsproto.utilities import RemoteProtocolError

from heliograph.config import Settings
from heliograph.http.rules.bodies import split_array
from heliograph.http.rules.parameters import Keyset, encode_cursor
from heliograph.http.wire.body import ChunkedBody
from heliograph.http.wire.frames import whole_messages
from heliograph.http.wire.head import HeadRefused, read_head
from heliograph.model.channels import is_channel, is_pattern, parse_selector, parse_topic_pattern
from heliograph.model.errors import ClientFault, Invalid, Malformed, WebhookValidationError
from heliograph.model.event import Draft
from heliograph.model.exact_json import parse_json
from heliograph.model.ids import format_id, parse_position, parse_time
from heliograph.model.intake import parse_item, parse_items
from heliograph.model.mend import parse_leniently, read_json
from heliograph.model.publishers import from_pubsub, from_stream
from heliograph.model.webhooks.config import PROVIDERS, read_config
from heliograph.model.webhooks.reading import read_delivery
from heliograph.model.workflows.cards import read_card
from heliograph.model.workflows.manifest import read_manifest
from heliograph.model.workflows.pipeline import read_pipeline
from heliograph.model.workflows.reading import FileProblem
from heliograph.model.yaml import BadYaml, load

MAX_BYTES = 4096
MASKED_PING = b"\x89\x80\0\0\0\0"


def heads(data: bytes) -> None:
    """Read the head of a request: it is one of HTTP/1, or refused with a status."""
    try:
        head = read_head(data)
    except HeadRefused:
        return
    assert head.method.isascii()
    assert all(name == name.lower() for name in head.headers.by_name)


def chunks(data: bytes) -> None:
    """Measure a chunked body: never more than has come, and in small pieces as in one."""
    at_once, in_pieces = ChunkedBody(0), ChunkedBody(0)
    measured = at_once.measure(bytearray(data), len(data))
    assert 0 <= measured <= len(data)
    left, rest = bytearray(), 0
    for byte in data:
        left.append(byte)
        taken = in_pieces.measure(left, len(left))
        rest += taken
        del left[:taken]
    assert (rest, in_pieces.ended) == (measured, at_once.ended)


def frames(data: bytes) -> None:
    """Read a client's frames; behind whole messages a new parser reads on, as the old one would."""
    parser = Connection(ConnectionType.SERVER)
    parser.receive_data(data)
    try:
        if any(isinstance(event, wsproto.events.CloseConnection) for event in parser.events()):
            return
    except RemoteProtocolError:
        return
    if whole_messages(data):
        parser.receive_data(MASKED_PING)
        assert [type(event) for event in parser.events()] == [wsproto.events.Ping]


def items(data: bytes) -> None:
    """Read published JSON: refused with a client's fault, or kept as it was read."""
    try:
        value = parse_json(data, "the body")
        drafts = parse_items(value if isinstance(value, list) else [value], MAX_BYTES)
    except ClientFault:
        return
    for draft in drafts:
        assert is_channel(draft.channel)
        assert orjson.loads(draft.body) == draft.payload


def lenient_items(data: bytes) -> None:
    """Read published JSON leniently: any object becomes an event that the strict rules take."""
    try:
        item = read_json(data)
        draft, _ = parse_leniently(item, MAX_BYTES, None)
    except (Malformed, Invalid):
        return
    again = {"topic": draft.topic, "channel": draft.channel, "payload": orjson.loads(draft.body)}
    assert parse_item(again, MAX_BYTES).body == draft.body


def arrays(data: bytes) -> None:
    """Split an array of JSON into its entries: they are those that a parser of the whole finds."""
    try:
        whole = orjson.loads(data)
    except orjson.JSONDecodeError:
        whole = None
    try:
        entries = list(split_array(data))
    except Malformed:
        assert not isinstance(whole, list)
        return
    if isinstance(whole, list):
        assert [orjson.loads(entry) for entry in entries] == whole


def cursors(data: bytes) -> None:
    """Read positions, times, selectors, patterns and cursors of lists: refused by their field, or read."""
    text = data.decode("utf-8", "surrogateescape")
    readers: tuple[Callable[[str], Any], ...] = (
        lambda text: parse_position(format_id(parse_position(text, "after")), "after"),
        lambda text: parse_time(text, "since"),
        lambda text: is_channel(parse_selector(text)) or is_pattern(text),
        parse_topic_pattern,
        lambda text: Keyset((int, str), encode_cursor).read([text], "cursor", Settings()),
    )
    for read in readers:
        with suppress(Invalid):
            assert read(text) is not None


def files(data: bytes) -> None:
    """Read a file as everything that a folder may hold: read, or a problem with its place."""
    try:
        document = load(data)
    except BadYaml:
        return
    problems: list[FileProblem] = []
    for read in (read_manifest, read_pipeline, read_card):
        read(document, "file.yaml", problems)
    with suppress(WebhookValidationError):
        read_config(document, "hook")


def redis_messages(data: bytes) -> None:
    """Read what came out of Redis: there is always something to keep, within the limit."""
    channel, _, message = data.partition(b"\n")
    drafts: list[Draft] = []
    with suppress(Malformed):  # the channel names no task
        drafts += from_pubsub(channel.decode("utf-8", "replace"), message, MAX_BYTES)
    fields = [part.partition(b"=") for part in message.split(b"\n")]
    drafts += from_stream(
        "1-0", {name.decode("utf-8", "replace"): value for name, _, value in fields}, MAX_BYTES
    )
    for draft in drafts:
        assert len(draft.body) <= MAX_BYTES
        assert is_channel(draft.channel)


def deliveries(data: bytes) -> None:
    """Read a delivery as each provider's: refused as malformed, or read with texts of bounded length."""
    for kind in ("application/json", "application/x-www-form-urlencoded"):
        for provider in PROVIDERS:
            try:
                said = read_delivery(
                    provider, {"content-type": kind, "x-github-event": "issue_comment"}, data
                )
            except Malformed:
                continue
            assert isinstance(said.text, str)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        heads,
        chunks,
        frames,
        items,
        lenient_items,
        arrays,
        cursors,
        files,
        redis_messages,
        deliveries,
    )
}
