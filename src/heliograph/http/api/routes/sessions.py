"""Sessions: the list, and one session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import attrs

from heliograph.http.api import samples
from heliograph.http.api.endpoint import Described, Endpoint
from heliograph.http.api.services import Services
from heliograph.http.api.shared import ListMeta, Meta
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.parameters import Moment, Text, encode_cursor, page_cursor, page_limit, path, query
from heliograph.http.rules.schema import COUNT, record, says
from heliograph.model.errors import Invalid, NotFound, Unavailable
from heliograph.model.ids import from_microseconds, to_microseconds
from heliograph.model.session import SESSION, Session, SessionFilter
from heliograph.model.task import STATUSES


def _session_key(microseconds: int, session_id: str) -> tuple[datetime, str]:
    if not 0 <= microseconds < 2**58:
        raise ValueError("no session has such a key")
    return from_microseconds(microseconds), session_id


@attrs.frozen
class SessionListing:
    """The filters and the page of a list of sessions."""

    since: datetime | None = query(Moment(), "Last seen at or after this ISO 8601 time or date.")
    until: datetime | None = query(Moment(), "Last seen before this ISO 8601 time or date.")
    limit: int = page_limit()
    cursor: tuple[datetime, str] | None = page_cursor(_session_key, int, str)


@attrs.frozen
class OfSession:
    """One session."""

    session_id: str = path(Text(), "The session's id, as its tasks name it.")


@attrs.frozen
class SessionView:
    """A session: sums over the tasks that name it."""

    session_id: str
    tasks: Annotated[Mapping[str, int], says(**record(dict.fromkeys(STATUSES, COUNT)))]
    cost_usd: Annotated[float, says("Dollars, exact to the billionth.")]
    input_tokens: int
    output_tokens: int
    first_seen: datetime
    last_seen: Annotated[datetime, says("The last time at which a task of it began, started or ended.")]


@attrs.frozen
class SessionList:
    """A page of sessions."""

    sessions: Sequence[SessionView]
    meta: ListMeta


@attrs.frozen
class OneSession(SessionView):
    """A session, and where the answer stands."""

    meta: Meta


async def list_sessions(services: Services, who: Identity, asked: SessionListing) -> SessionList:
    """List sessions, the one that was seen last first."""
    look = services.store.look()
    wanted = SessionFilter(asked.since, asked.until)
    found, more = await look.list(SESSION, wanted, asked.cursor, asked.limit)
    last = encode_cursor(to_microseconds(found[-1].last_seen), found[-1].session_id) if more else None
    return SessionList([_view(session) for session in found], ListMeta(last, look.position))


async def get_session(services: Services, who: Identity, asked: OfSession) -> OneSession:
    """Return one session."""
    look = services.store.look()
    session = await look.get(SESSION, asked.session_id)
    if session is None:
        raise NotFound(
            f"there is no session {asked.session_id[:200]!r}; GET /api/v1/sessions lists those that exist"
        )
    return _one(_view(session), Meta(look.position))


def view_of(found: OneSession) -> SessionView:
    """Return a session without the answer's position."""
    return SessionView(**{field.name: getattr(found, field.name) for field in attrs.fields(SessionView)})


def _one(session: SessionView, meta: Meta) -> OneSession:
    return OneSession(**attrs.asdict(session, recurse=False), meta=meta)


def _view(session: Session) -> SessionView:
    return SessionView(
        session.session_id,
        dict.fromkeys(STATUSES, 0) | session.tasks,
        session.cost_nanos / 10**9,
        session.input_tokens,
        session.output_tokens,
        session.first_seen,
        session.last_seen,
    )


def _of_tasks(asked: Any) -> tuple[str, ...]:
    """Return the channels of tasks, of which sessions are made."""
    return ("task:*",)


_EXAMPLE = SessionView(
    "s-1",
    {**dict.fromkeys(STATUSES, 0), "completed": 1},
    0.05,
    1200,
    0,
    samples.CREATED.timestamp,
    samples.ENDED.timestamp,
)

ENDPOINTS = [
    Endpoint(
        "GET",
        "/api/v1/sessions",
        list_sessions,
        "sessions",
        Described("A page of sessions."),
        channels=_of_tasks,
        refuses=(Invalid, Unavailable),
        example=SessionList([_EXAMPLE], samples.LAST_PAGE),
    ),
    Endpoint(
        "GET",
        "/api/v1/sessions/{session_id:path}",
        get_session,
        "sessions",
        Described("The session."),
        channels=_of_tasks,
        refuses=(NotFound, Invalid, Unavailable),
        example=_one(_EXAMPLE, samples.META),
    ),
]
