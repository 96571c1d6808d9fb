"""The head of a request as a protocol: the only view of a request that the rules need.

Quart's requests implement it, and so does a ``Head`` that the wire has parsed, so both ways have one set of
rules.
"""

from __future__ import annotations

from typing import Protocol, overload

from werkzeug.datastructures import MultiDict


class Headers(Protocol):
    """Header fields by name; the case of names does not matter."""

    @overload
    def get(self, key: str, /) -> str | None: ...
    @overload
    def get(self, key: str, default: str, /) -> str: ...

    def __getitem__(self, key: str, /) -> str:
        """Return a field that exists."""


class Asked(Protocol):
    """The parsed head of a request."""

    @property
    def method(self) -> str:
        """The method, in upper case."""

    @property
    def path(self) -> str:
        """The path, without the query."""

    @property
    def headers(self) -> Headers:
        """The header fields."""

    @property
    def args(self) -> MultiDict[str, str]:
        """The query's parameters."""

    @property
    def http_version(self) -> str:
        """The version of HTTP, such as ``1.1``."""

    @property
    def mimetype(self) -> str:
        """The media type of the body, in lower case and without parameters; empty if none is given."""
