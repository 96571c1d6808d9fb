"""The head of a request, without input and output: all that the rules of a request look at.

Quart's requests are of this form, and so is a ``Head`` that was read by hand: both doors have one set of
rules.
"""

from __future__ import annotations

from typing import Protocol, overload

from werkzeug.datastructures import MultiDict


class Headers(Protocol):
    """Header fields, by names in whatever letters."""

    @overload
    def get(self, key: str, /) -> str | None: ...
    @overload
    def get(self, key: str, default: str, /) -> str: ...

    def __getitem__(self, key: str, /) -> str:
        """Return a field that is there."""


class Asked(Protocol):
    """The head of a request, read."""

    @property
    def method(self) -> str:
        """The method in capitals."""

    @property
    def path(self) -> str:
        """Without the query."""

    @property
    def headers(self) -> Headers:
        """The header fields."""

    @property
    def args(self) -> MultiDict[str, str]:
        """The query's parameters."""

    @property
    def http_version(self) -> str:
        """Such as ``1.1``."""

    @property
    def mimetype(self) -> str:
        """The media type of the body, in small letters, without parameters; empty if none is given."""
