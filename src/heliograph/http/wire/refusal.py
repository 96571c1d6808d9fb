"""The answer to a head that is refused: a problem with the usual headers, after which the connection ends."""

from __future__ import annotations

import attrs
from werkzeug.exceptions import HTTPException

from heliograph.http.rules.problems import answer_to
from heliograph.http.wire.head import HeadRefused

USUAL_HEADERS = {"X-Content-Type-Options": "nosniff", "Connection": "close"}


def refusal(refused: HeadRefused) -> bytes:
    """Write the answer."""
    error = HTTPException(refused.detail)
    error.code = refused.status
    answer = answer_to(error)
    return attrs.evolve(answer, headers={**answer.headers, **refused.headers, **USUAL_HEADERS}).encoded()
