"""The one family of exceptions; each name says who is at fault.

::

    HeliographError
    ├── ClientFault            the caller can mend it
    │   ├── Malformed          not JSON, not UTF-8, not the protocol
    │   ├── Invalid            understood, but fields are wrong (carries a list of them)
    │   ├── Unauthenticated    no key, or an unknown one
    │   ├── Forbidden          a known key without the scope or channel
    │   ├── NotFound           no such thing
    │   ├── Conflict           an idempotency key reused for something else
    │   ├── TooLarge           over a byte limit
    │   ├── UnsupportedMedia   a content type nobody reads here
    │   └── TooMany            over a limit of count or rate
    ├── Unavailable            a part of the service is away or full; retry later
    └── SettingsError          the configuration is wrong (carries a list of lines)

Rooms raise these and translate foreign exceptions into them at their seam; ``http.problems`` holds
the one table from class to HTTP status and WebSocket error code.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs


class HeliographError(Exception):
    """Base of every error that Heliograph raises on purpose."""


class ClientFault(HeliographError):
    """The caller sent something that can't be served as it is."""


class Malformed(ClientFault):
    """The bytes are not what they claim to be."""


@attrs.frozen
class FieldError:
    """One bad field.

    Args:
        field: Path of the field, such as ``payload.output``.
        detail: What is wrong and what would be right.
        index: Position of the item in a batch, from 0; ``None`` outside batches.
    """

    field: str
    detail: str
    index: int | None = None


class Invalid(ClientFault):
    """The request was understood, but some of its fields are wrong."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(f"{e.field}: {e.detail}" if e.field else e.detail for e in self.errors))

    @classmethod
    def field(cls, field: str, detail: str) -> Invalid:
        """Make the error of a single field."""
        return cls([FieldError(field, detail)])


class Unauthenticated(ClientFault):
    """No credentials, or unknown ones."""


class Forbidden(ClientFault):
    """Known credentials that don't reach this far."""


class NotFound(ClientFault):
    """Nothing of that name exists (any more)."""


class Conflict(ClientFault):
    """An idempotency key was used before for a different event."""


class TooLarge(ClientFault):
    """Over a limit of bytes."""


class UnsupportedMedia(ClientFault):
    """A content type that is not read here."""


class TooMany(ClientFault):
    """Over a limit of count; ``retry_after`` is in seconds."""

    def __init__(self, message: str, retry_after: float = 5.0) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class Unavailable(HeliographError):
    """A part of the service is away or full; ``retry_after`` is in seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class SettingsError(HeliographError):
    """The configuration is wrong; ``problems`` has one line per mistake."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))
