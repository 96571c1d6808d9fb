"""Errors on the wire: the one table from exception to status, code and title (RFC 9457).

The same table serves HTTP (``application/problem+json``) and the WebSocket's ``error`` message. What is
not in the family is a bug: it is logged with its traceback and answered by a bare 500.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs
import orjson
import structlog
from quart import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from heliograph.http.rules.answer import Answer
from heliograph.model import errors

log = structlog.get_logger(__name__)

TABLE: dict[type[errors.HeliographError], tuple[int, str, str]] = {
    errors.Malformed: (400, "malformed", "Malformed request"),
    errors.Unauthenticated: (401, "unauthenticated", "A valid API key is needed"),
    errors.Forbidden: (403, "forbidden", "Not allowed"),
    errors.NotFound: (404, "not_found", "Not found"),
    errors.Conflict: (409, "conflict", "The idempotency key was used for something else"),
    errors.TooLarge: (413, "too_large", "Too large"),
    errors.UnsupportedMedia: (415, "unsupported_media_type", "Unsupported media type"),
    errors.Invalid: (422, "invalid", "Some fields are wrong"),
    errors.TooMany: (429, "too_many", "Over a limit"),
    errors.Unavailable: (503, "unavailable", "Temporarily unavailable"),
}
KINDS = {status: (code, title) for status, code, title in TABLE.values()}
"""Code and title by status: whoever refuses, the framework or ourselves, a status means the same."""


@attrs.frozen
class Problem:
    """An error as clients see it.

    Args:
        status: HTTP status.
        code: Stable, for programs.
        title: The kind of problem, for people.
        detail: This occurrence.
        errors: Bad fields, if that is what it was.
        retry_after: Seconds to wait, if waiting helps.
    """

    status: int
    code: str
    title: str
    detail: str
    errors: tuple[errors.FieldError, ...] = ()
    retry_after: float | None = None

    def answer(self, more: Mapping[str, str] | None = None) -> Answer:
        """Make the answer, with these headers besides its own."""
        body: dict[str, Any] = {
            "type": f"urn:heliograph:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.errors:
            body["errors"] = [
                {key: value for key, value in attrs.asdict(error).items() if value is not None}
                for error in self.errors
            ]
        headers = dict(more or {})
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="heliograph"'
        return Answer(self.status, orjson.dumps(body), "application/problem+json", headers)


def describe(error: errors.HeliographError) -> Problem:
    """Look an error of the family up in the table."""
    status, code, title = TABLE[type(error)]
    return Problem(
        status,
        code,
        title,
        str(error),
        errors=error.errors if isinstance(error, errors.Invalid) else (),
        retry_after=getattr(error, "retry_after", None),
    )


def answer_to(error: Exception) -> Answer:
    """Make the answer to an error: of the family, of the framework, or a bug, which is logged."""
    if isinstance(error, errors.HeliographError):
        return describe(error).answer()
    if isinstance(error, RequestEntityTooLarge):
        return describe(errors.TooLarge("the body is larger than server.max_request_bytes")).answer()
    if isinstance(error, HTTPException):
        status, name = error.code or 500, error.name or "Error"
        code, title = KINDS.get(status, (name.lower().replace(" ", "_"), name))
        problem = Problem(status, code, title, error.description or "")
        return problem.answer({name: value for name, value in error.get_headers() if name.lower() == "allow"})
    log.error("unexpected error in a request", exc_info=error)
    return Problem(500, "internal", "Internal error", "the error was logged").answer()


def install(app: QuartTrio) -> None:
    """Answer every error of the app as a problem."""

    @app.errorhandler(Exception)
    async def refuse(error: Exception) -> Response:
        return answer_to(error).response()
