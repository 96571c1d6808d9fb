"""What is asked, without input and output: what the rules of a request may look at.

Quart's requests are of this form, and so is a ``Head`` that was read by hand; thus a shortcut (see
``shortcuts``) is ruled by the same functions as a Quart route.
"""

from __future__ import annotations

from typing import Protocol, overload

from werkzeug.datastructures import MultiDict


class Fields(Protocol):
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
        """In capitals."""

    @property
    def headers(self) -> Fields:
        """The header fields."""

    @property
    def args(self) -> MultiDict[str, str]:
        """The query's parameters."""

    @property
    def mimetype(self) -> str:
        """What the body is said to be, in small letters, without parameters; empty if nothing is said."""
