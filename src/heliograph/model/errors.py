"""The one family of exceptions; each name tells who is at fault.

::

    HeliographError
    ├── ClientFault            the caller can fix it
    │   ├── Malformed          not JSON, not UTF-8, not the protocol
    │   ├── Invalid            understood, but fields are wrong (carries a list of them)
    │   │   └── WebhookValidationError  those of a webhook's configuration (names its file)
    │   ├── Unauthenticated    no key, or an unknown one
    │   │   └── BadSignature   of a webhook's delivery
    │   ├── Forbidden          a known key without the scope or channel
    │   ├── NotFound           no such thing
    │   ├── Conflict           an idempotency key reused for something else
    │   │   ├── RepeatedDelivery  of a webhook
    │   │   └── NotAsked          an answer
    │   ├── TooLarge           over a byte limit
    │   ├── UnsupportedMedia   a content type that is not supported
    │   └── TooMany            over a limit of count or rate
    ├── Unavailable            a part of the service is away or full; retry later
    └── SettingsError          the configuration is wrong (carries a list of lines)

Rooms raise these and translate foreign exceptions into them at their seam. Each class has its form on the
wire: its HTTP status, its code for programs, and its title for people. Problems, the WebSocket's errors, the
client and the documents are made from these. A subclass may name its entity: ``class
WorkflowNotFound(NotFound)`` with ``code = "workflow_not_found"`` is a 404 all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import attrs

MAX_ERRORS = 100
"""The most bad fields that one error names, since a request may have millions."""

SAID_ERRORS = 10
"""The most bad fields that the error's text repeats."""


class HeliographError(Exception):
    """Base of every error that Heliograph raises on purpose."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"


class ClientFault(HeliographError):
    """The caller sent something that can't be served as it is."""


class Malformed(ClientFault):
    """The bytes are not what they claim to be."""

    status = 400
    code = "malformed"
    title = "Malformed request"


@attrs.frozen
class FieldError:
    """One bad field.

    Args:
        field: Path of the field, such as ``payload.output``.
        detail: The fault, and the value that would be right.
        index: Position of the item in a batch, from 0; ``None`` outside batches.
    """

    field: str
    detail: str
    index: int | None = None


class Invalid(ClientFault):
    """The request was understood, but some of its fields are wrong."""

    status = 422
    code = "invalid"
    title = "Some fields are wrong"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        self.errors = tuple(errors[:MAX_ERRORS])
        said = [f"{e.field}: {e.detail}" if e.field else e.detail for e in self.errors[:SAID_ERRORS]]
        if len(self.errors) > SAID_ERRORS:
            said.append("and others")
        super().__init__("; ".join(said))

    @classmethod
    def field(cls, field: str, detail: str) -> Invalid:
        """Make the error of a single field."""
        return cls([FieldError(field, detail)])


class WebhookValidationError(Invalid):
    """The configuration of a webhook is wrong; ``file`` names its file, if it has one."""

    def __init__(self, errors: Sequence[FieldError] | str = (), file: str = "") -> None:
        super().__init__([FieldError("", errors)] if isinstance(errors, str) else errors)
        self.file = file
        if file:
            self.args = (f"{file}: {self}",)


class Unauthenticated(ClientFault):
    """No credentials, or unknown ones."""

    status = 401
    code = "unauthenticated"
    title = "A valid API key is needed"


class BadSignature(Unauthenticated):
    """A webhook's delivery has a missing, wrong or outdated signature; ``reason`` tells which."""

    code = "bad_signature"
    title = "The delivery's signature is not good"

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class Forbidden(ClientFault):
    """Known credentials that don't reach this far."""

    status = 403
    code = "forbidden"
    title = "Not allowed"


class NotFound(ClientFault):
    """Nothing of that name exists (any more)."""

    status = 404
    code = "not_found"
    title = "Not found"


class WorkflowNotFound(NotFound):
    """No folder describes a workflow of that name."""

    code = "workflow_not_found"
    title = "No such workflow"


class RunNotFound(NotFound):
    """No event has named a run of that id."""

    code = "run_not_found"
    title = "No such run"


class ArtifactNotFound(NotFound):
    """A run has no artifact of that key."""

    code = "artifact_not_found"
    title = "No such artifact"


class Conflict(ClientFault):
    """An idempotency key was used before for a different event."""

    status = 409
    code = "conflict"
    title = "The idempotency key was used for something else"


class Overtaken(Conflict):
    """A channel has newer events than those that an event was based on; nothing was kept."""

    code = "overtaken"
    title = "Something else came first"


class RepeatedDelivery(Conflict):
    """A webhook's delivery that was taken before."""

    code = "repeated_delivery"
    title = "The delivery was taken before"


class NotAsked(Conflict):
    """An answer comes too late, or no task waits for it."""

    code = "not_asked"
    title = "The task does not ask that"


class TooLarge(ClientFault):
    """Over a limit of bytes."""

    status = 413
    code = "too_large"
    title = "Too large"


class UnsupportedMedia(ClientFault):
    """A content type that is not read here."""

    status = 415
    code = "unsupported_media_type"
    title = "Unsupported media type"


class TooMany(ClientFault):
    """Over a limit of count; ``retry_after`` is in seconds."""

    status = 429
    code = "too_many"
    title = "Over a limit"

    def __init__(self, message: str, retry_after: float = 5.0) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class Unavailable(HeliographError):
    """A part of the service is away or full; ``retry_after`` is in seconds."""

    status = 503
    code = "unavailable"
    title = "Temporarily unavailable"

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class SettingsError(HeliographError):
    """The configuration is wrong; ``problems`` has one line per mistake."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def by_status() -> dict[int, type[HeliographError]]:
    """Return the most general class of each status."""
    found: dict[int, type[HeliographError]] = {}
    waiting: list[type[HeliographError]] = [HeliographError]
    for cls in waiting:
        found.setdefault(cls.status, cls)
        waiting += cls.__subclasses__()
    return found
