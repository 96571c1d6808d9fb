"""The one way in: answers a request to an endpoint, after all checks.

Quart's routes and the shortcuts both call ``serve``, so an answer does not depend on the way that its request
took. The order makes refusals cheap: first everything in the head is checked (host, origin, key, scope,
parameters, channels), and only then is a body read.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Mapping
from contextlib import aclosing
from time import perf_counter
from typing import Any
from urllib.parse import urlencode

import attrs
import structlog

from heliograph.actors.audit import AuditedCall
from heliograph.http.api import spans
from heliograph.http.api.endpoint import Endpoint, Handshake, Streamed, TakeOver
from heliograph.http.api.services import Services
from heliograph.http.rules.access import (
    READING,
    client_address,
    common_headers,
    joined,
    require_host,
    require_origin,
)
from heliograph.http.rules.answer import Answer
from heliograph.http.rules.asked import Asked
from heliograph.http.rules.auth import CREDENTIALS, NOBODY, NobodyKnown
from heliograph.http.rules.bodies import read_body
from heliograph.http.rules.parameters import TICKET, read_parameters
from heliograph.http.rules.problems import answer_to
from heliograph.http.rules.quotas import Allowance
from heliograph.http.rules.shapes import write
from heliograph.http.wire.connection import Successor, peer_address
from heliograph.model.errors import TooMany, Unauthenticated, Unavailable
from heliograph.model.ids import format_id

log = structlog.get_logger(__name__)

Outcome = Answer | Streamed | Successor
"""A whole answer, one that is written bit by bit, or the successor that takes the connection over."""


def serve(
    endpoint: Endpoint,
    services: Services,
    asked: Asked,
    path: Mapping[str, str],
    body: bytes | AsyncIterable[bytes],
) -> Awaitable[Outcome]:
    """Answer a request.

    Args:
        endpoint: The endpoint.
        services: The actors and stores that the view works with.
        asked: The request's head.
        path: The parameters in its path.
        body: Its body, whole or as it arrives.
    """
    way = _traced if services.traced else _counted
    return way(endpoint, services, asked, path, body)


async def _traced(
    endpoint: Endpoint,
    services: Services,
    asked: Asked,
    path: Mapping[str, str],
    body: bytes | AsyncIterable[bytes],
) -> Outcome:
    with spans.request_span(endpoint.method, endpoint.path, asked) as span:
        outcome = await _counted(endpoint, services, asked, path, body)
        spans.note_status(span, status_of(endpoint, outcome))
        return outcome


def status_of(endpoint: Endpoint, outcome: Outcome) -> int:
    """Return the status of an outcome."""
    if isinstance(outcome, Answer | Streamed):
        return outcome.status
    return 101 if endpoint.upgrade else 200


async def _counted(
    endpoint: Endpoint,
    services: Services,
    asked: Asked,
    path: Mapping[str, str],
    body: bytes | AsyncIterable[bytes],
) -> Outcome:
    began = perf_counter()
    who = NOBODY
    try:
        arguments = _admit(endpoint, services, asked, path)
        who = arguments[1]
        allowance = who.allowance
        if endpoint.body is not None:
            if allowance is not None:
                body = _weighed(allowance, body)
            arguments.append(await read_body(endpoint.body.reader(asked, services.settings), asked, body))
        if endpoint.finds_all_told:
            await services.folded.wait()
        if endpoint.method == "GET":
            with services.questions.hold(who.name):
                found = await endpoint.view(*arguments)
        else:
            found = await endpoint.view(*arguments)
        outcome = _present(endpoint, services, asked, found)
        if isinstance(outcome, Streamed):
            chunks = _cut_aloud(outcome.chunks, asked.path)
            outcome = attrs.evolve(outcome, chunks=services.long_answers.written(who.name, chunks))
        if allowance is not None and isinstance(outcome, Answer | Streamed):
            outcome = attrs.evolve(outcome, headers={**outcome.headers, **allowance.headers()})
    except Exception as caught:
        error = caught
        if isinstance(error, Unauthenticated):
            error = await slowed(services, asked, error)
        refused = answer_to(error)
        headers = joined(refused.headers, common_headers(services.settings.server, asked))
        outcome = attrs.evolve(refused, headers=_kept_from_others(endpoint, services, headers))
    status = outcome.status if type(outcome) is Answer else status_of(endpoint, outcome)
    services.requests.add(endpoint.method, endpoint.path, status, perf_counter() - began)
    if endpoint.audited and who is not NOBODY:
        address = client_address(services.settings.server, asked)
        services.audit.called(
            AuditedCall(who.key or who.name, who.by, address, endpoint.method, asked.path[:200], status)
        )
    return outcome


async def _cut_aloud(chunks: AsyncIterator[bytes], path: str) -> AsyncIterator[bytes]:
    """Pass on the pieces of an answer, and log an error that cuts it: its status has been sent by then.

    The client sees the cut, since the last chunk is missing.
    """
    try:
        async with aclosing(chunks):  # type: ignore[type-var]  # all of them are generators
            async for chunk in chunks:
                yield chunk
                del chunk  # don't hold it while waiting for the next one
    except Unavailable as error:
        log.warning("an answer was cut", path=path[:200], reason=str(error))
        raise
    except Exception:
        log.exception("an answer was cut by an unexpected error", path=path[:200])
        raise


async def slowed(services: Services, asked: Asked, error: Unauthenticated) -> Exception:
    """Count a wrong key, ticket or session, and hold its answer back if too many came from its address.

    Returns:
        The error to answer with; a request without credentials is not counted.
    """
    # A ticket is not read where none is taken, so it is not wrong.
    ticket = TICKET in asked.args and not isinstance(error, NobodyKnown)
    if ticket or any(asked.headers.get(name) is not None for name in CREDENTIALS):
        refused = services.authenticator.refused
        if refused.note(client_address(services.settings.server, asked), asked.path, str(error)):
            try:
                await refused.hold()
            except TooMany as too_many:
                return too_many
    return error


def _weighed(allowance: Allowance, body: bytes | AsyncIterable[bytes]) -> bytes | AsyncIterable[bytes]:
    """Return a body whose bytes are charged to an allowance as they are read."""
    if isinstance(body, bytes):
        allowance.charge("bytes", len(body))
        return body
    return _charged(allowance, body)


async def _charged(allowance: Allowance, body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    async for data in body:
        allowance.charge("bytes", len(data))
        yield data


def _admit(endpoint: Endpoint, services: Services, asked: Asked, path: Mapping[str, str]) -> list[Any]:
    """Check a request by its head; return the view's arguments, except for the body.

    Raises:
        Forbidden: Its host, origin, scope or channels are not allowed.
        Unauthenticated: It lacks credentials, or has wrong ones.
        QuotaExceeded: Its key has used up a quota.
        Invalid: Some parameters are wrong.
    """
    require_host(services.settings, asked, keyed=services.authenticator.keyed)
    if endpoint.changes:
        require_origin(services.settings, asked)
    who = NOBODY
    if endpoint.scope is not None:
        ticket = asked.args.get(TICKET) if endpoint.takes_tickets and asked.args else None
        peer = peer_address() if services.settings.auth.open_networks else None
        if endpoint.upgrade:
            who = services.authenticator.from_headers(asked.headers, ticket, peer) or NOBODY
        else:
            returning = TakeOver in endpoint.forms and _comes_back(asked)
            who = services.authenticator.require(asked.headers, ticket, peer, returning=returning)
            who.require_scope(endpoint.scope)
        if who.allowance is not None:
            sends = endpoint.method not in READING
            who.allowance.admit(sends=sends)
            if sends and endpoint.scope == "publish":
                who.allowance.charge("events", 1)
    if endpoint.parameters is None:
        return [services, who]
    values: Any = read_parameters(endpoint.parameters, asked, path, services.settings, endpoint.other_names)
    if who.channels or "admin" not in who.scopes:
        for selector in endpoint.channels(values):
            who.require_channel(selector)
    return [services, who, values]


def _comes_back(asked: Asked) -> bool:
    """Tell whether a client resumes an event stream: it names the last event that it has."""
    return bool(asked.headers.get("Last-Event-ID") or asked.args.get("lastEventId"))


def _present(endpoint: Endpoint, services: Services, asked: Asked, found: Any) -> Outcome:
    """Make the outcome of a view's result."""
    headers = common_headers(services.settings.server, asked)
    if isinstance(found, TakeOver):
        if asked.method == "HEAD":
            return attrs.evolve(found.head, headers=joined(found.head.headers, headers))
        return found.successor(
            Handshake(
                headers,
                chunked=asked.http_version != "1.0",
                address=client_address(services.settings.server, asked),
            )
        )
    if isinstance(found, Answer | Streamed):
        headers = _kept_from_others(endpoint, services, joined(found.headers, headers))
        return attrs.evolve(found, headers=headers)
    if endpoint.present is not None:
        headers |= _cursors(asked, getattr(found, "meta", None))
        found = endpoint.present(found)
    return Answer(endpoint.status, write(found), headers=_kept_from_others(endpoint, services, headers))


def _kept_from_others(endpoint: Endpoint, services: Services, headers: dict[str, str]) -> dict[str, str]:
    """Return an answer's headers, with those that keep it out of shared caches if it needs a key."""
    if endpoint.scope is None or not services.authenticator.keyed:
        return headers
    return {"Cache-Control": "no-store", **joined(headers, {"Vary": ", ".join(CREDENTIALS)})}


def _cursors(asked: Asked, meta: Any) -> dict[str, str]:
    """Return the cursors of an answer as headers, with the next page's address relative to this one."""
    headers = {}
    if (stream_cursor := getattr(meta, "stream_cursor", None)) is not None:
        headers["X-Stream-Cursor"] = format_id(stream_cursor)
    if (next_cursor := getattr(meta, "next_cursor", None)) is not None:
        query = [
            (name, text) for name, text in asked.args.items(multi=True) if name not in {"cursor", TICKET}
        ]
        headers["X-Next-Cursor"] = next_cursor
        headers["Link"] = f'<?{urlencode([*query, ("cursor", next_cursor)])}>; rel="next"'
    return headers
