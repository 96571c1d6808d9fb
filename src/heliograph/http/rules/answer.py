"""An answer as a value, whether Quart or a shortcut sends it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache

import attrs
from quart import Response


@attrs.frozen
class Answer:
    """A whole answer.

    Args:
        status: HTTP status.
        body: The body, of known length.
        content_type: The media type of the body.
        headers: Further headers.
    """

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = attrs.field(factory=dict)

    def response(self) -> Response:
        """Make the response of a Quart route."""
        return Response(self.body, self.status, dict(self.headers), content_type=self.content_type)

    def encoded(self) -> bytes:
        """Encode the answer for HTTP/1.1 as hypercorn does."""
        fixed = _fixed_lines(self.content_type, tuple(self.headers.items()))
        sized = f"content-length: {len(self.body)}\r\ndate: {_date(int(time.time()))}\r\n\r\n"
        return f"HTTP/1.1 {self.status} \r\n{fixed}{sized}".encode("latin-1") + self.body


@lru_cache(maxsize=64)
def _fixed_lines(content_type: str, headers: tuple[tuple[str, str], ...]) -> str:
    """Return the header lines that most answers share."""
    return "".join(
        [f"{name.lower()}: {value}\r\n" for name, value in (("content-type", content_type), *headers)]
    )


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
