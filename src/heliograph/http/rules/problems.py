"""Errors on the wire: problems (RFC 9457), made from the attributes of the classes in ``model.errors``.

HTTP answers ``application/problem+json``; the WebSocket's ``error`` message takes its fields from the same
problem. Any other exception is a bug: it is logged with its traceback and answered by a bare 500.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import attrs
import structlog
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from heliograph.http.rules.answer import Answer
from heliograph.http.rules.bodies import CODINGS, UnsupportedCoding
from heliograph.http.rules.quotas import QuotaExceeded
from heliograph.http.rules.schema import says
from heliograph.http.rules.shapes import write
from heliograph.model import errors

log = structlog.get_logger(__name__)

CODES = [cls.code for _, cls in sorted(errors.by_status().items()) if cls.status != 500]


@attrs.frozen
class ProblemError:
    """The same once more, in the form that clients of the platform read."""

    error_code: Annotated[str, says("The code in capitals.")]
    message: str
    detail: str
    retryable: Annotated[bool, says("Whether the same request may succeed later.")]
    http_status: int


@attrs.frozen
class Problem:
    """A problem (RFC 9457). With code invalid, errors names each bad field."""

    type: Annotated[str, says(pattern="^(?:urn:heliograph:problem:.+)$")]
    title: str
    status: Annotated[int, says(minimum=400, maximum=599)]
    detail: str
    code: Annotated[str, says(f"Stable, for programs: {', '.join(CODES)}, …")]
    error: ProblemError
    errors: Sequence[errors.FieldError] = ()


@attrs.frozen
class Fault:
    """An error as clients see it.

    Args:
        status: HTTP status.
        code: The kind of problem, for programs; it is stable.
        title: The kind of problem, for people.
        detail: The description of this occurrence.
        errors: The bad fields, if there are any.
        retry_after: Seconds to wait, if waiting helps.
    """

    status: int
    code: str
    title: str
    detail: str
    errors: tuple[errors.FieldError, ...] = ()
    retry_after: float | None = None

    def answer(self, more: Mapping[str, str] | None = None) -> Answer:
        """Make the answer, with further headers ``more``."""
        body = Problem(
            type=f"urn:heliograph:problem:{self.code}",
            title=self.title,
            status=self.status,
            detail=self.detail,
            code=self.code,
            error=ProblemError(
                self.code.upper(), self.title, self.detail, self.retry_after is not None, self.status
            ),
            errors=self.errors,
        )
        headers = dict(more or {})
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="heliograph"'
        return Answer(self.status, write(body), "application/problem+json", headers)


def describe(error: errors.HeliographError) -> Fault:
    """Make the problem of an error of ``model.errors``."""
    return Fault(
        error.status,
        error.code,
        error.title,
        str(error),
        errors=error.errors if isinstance(error, errors.Invalid) else (),
        retry_after=getattr(error, "retry_after", None),
    )


class UpgradeRequired(errors.ClientFault):
    """A request for a WebSocket has no upgrade (RFC 9110, section 15.5.22)."""

    status = 426
    code = "upgrade_required"
    title = "A WebSocket is needed"


def answer_to(error: Exception) -> Answer:
    """Make the answer to an error: of ``model.errors``, of the framework, or a bug, which is logged."""
    if isinstance(error, RequestEntityTooLarge):
        error = errors.TooLarge("the body is larger than server.max_request_bytes")
    if isinstance(error, UpgradeRequired):
        return describe(error).answer({"Upgrade": "websocket", "Connection": "Upgrade"})
    if isinstance(error, QuotaExceeded):
        return describe(error).answer(error.headers)
    if isinstance(error, UnsupportedCoding):
        return describe(error).answer({"Accept-Encoding": ", ".join(CODINGS)})
    if isinstance(error, errors.HeliographError) and error.status != 500:
        return describe(error).answer()
    if isinstance(error, HTTPException):
        return _of_framework(error)
    log.error("unexpected error in a request", exc_info=error)
    return Fault(500, "internal", "Internal error", "the error was logged").answer()


def _of_framework(error: HTTPException) -> Answer:
    """Make the answer to an error of werkzeug's, with our code and title for its status."""
    status, name = error.code or 500, error.name or "Error"
    ours = errors.by_status().get(status)
    code, title = (name.lower().replace(" ", "_"), name) if ours is None else (ours.code, ours.title)
    problem = Fault(status, code, title, error.description or "")
    return problem.answer({name: value for name, value in error.get_headers() if name.lower() == "allow"})
