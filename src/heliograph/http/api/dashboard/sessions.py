"""Sessions in the dashboard's form."""

from __future__ import annotations

from heliograph.http.api.endpoint import of_view
from heliograph.http.api.routes import sessions
from heliograph.http.api.routes.sessions import OneSession, SessionList, SessionView


def session_rows(found: SessionList) -> list[SessionView]:
    """Present a page of sessions."""
    return list(found.sessions)


def session_row(found: OneSession) -> SessionView:
    """Present a session."""
    return sessions.view_of(found)


ENDPOINTS = [
    of_view(sessions.ENDPOINTS, sessions.list_sessions).in_dashboard(
        "/api/sessions", "A page of sessions.", session_rows
    ),
    of_view(sessions.ENDPOINTS, sessions.get_session).in_dashboard(
        "/api/sessions/{session_id:path}", "The session.", session_row
    ),
]
