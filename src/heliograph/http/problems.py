"""Errors on the wire: the one table from exception to status, code and title (RFC 9457).

The same table serves HTTP (``application/problem+json``) and the WebSocket's ``error`` message. What is
not in the family is a bug: it is logged with its traceback and answered by a bare 500.
"""

from __future__ import annotations

import math
from typing import Any

import attrs
import orjson
import structlog
from quart import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from heliograph.model import errors

log = structlog.get_logger(__name__)

TABLE: dict[type[errors.HeliographError], tuple[int, str, str]] = {
    errors.Malformed: (400, "malformed", "Malformed request"),
    errors.Unauthenticated: (401, "unauthenticated", "A valid API key is needed"),
    errors.Forbidden: (403, "forbidden", "The API key does not reach this far"),
    errors.NotFound: (404, "not_found", "Not found"),
    errors.Conflict: (409, "conflict", "The idempotency key was used for something else"),
    errors.TooLarge: (413, "too_large", "Too large"),
    errors.UnsupportedMedia: (415, "unsupported_media_type", "Unsupported media type"),
    errors.Invalid: (422, "invalid", "Some fields are wrong"),
    errors.TooMany: (429, "too_many", "Over a limit"),
    errors.Unavailable: (503, "unavailable", "Temporarily unavailable"),
}


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

    def response(self) -> Response:
        """Make the HTTP response."""
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
        response = Response(orjson.dumps(body), self.status, content_type="application/problem+json")
        if self.retry_after is not None:
            response.headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            response.headers["WWW-Authenticate"] = 'Bearer realm="heliograph"'
        return response


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


def install(app: QuartTrio) -> None:
    """Answer every error of the app as a problem."""

    @app.errorhandler(errors.HeliographError)
    async def expected(error: errors.HeliographError) -> Response:
        return describe(error).response()

    @app.errorhandler(HTTPException)
    async def by_framework(error: HTTPException) -> Response:
        status = error.code or 500
        code = (error.name or "error").lower().replace(" ", "_")
        problem = Problem(status, code, error.name or "Error", error.description or "")
        response = problem.response()
        for name, value in error.get_headers():
            if name.lower() == "allow":
                response.headers[name] = value
        return response

    @app.errorhandler(Exception)
    async def bug(error: Exception) -> Response:
        log.error("unexpected error in a request", exc_info=error)
        return Problem(500, "internal", "Internal error", "the error was logged").response()
