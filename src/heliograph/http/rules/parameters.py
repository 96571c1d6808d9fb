"""Parameters: each reads itself from a request's query, path or header, and describes itself for OpenAPI.

The parameters of an endpoint are the fields of one attrs class, so that its view gets them as values of
known types::

    @attrs.frozen
    class TaskListing:
        status: tuple[str, ...] = query(Words(STATUSES), "Any of these.", default=())
        limit: int = query(Whole(1, 500), "The most items on a page.", default=50)

An empty parameter counts as absent. One answer names all wrong parameters.

A long module, since it has every kind of parameter value; each is a small class of one form.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any, Protocol, TypeVar

import attrs
import orjson
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from heliograph.config import Settings
from heliograph.http.rules.asked import Asked
from heliograph.http.rules.schema import TEXT, Schema, described, listing, one_of, text, whole
from heliograph.model.channels import (
    CHANNEL,
    KINDS_WITH_ID,
    TOPIC_PATTERN,
    parse_selector,
    parse_topic_pattern,
)
from heliograph.model.errors import FieldError, Invalid, Malformed
from heliograph.model.ids import EventId, is_time, parse_position, parse_time

MAX_LIMIT = 500
DEFAULT_LIMIT = 50
MAX_SELECTORS = 500
"""The most selectors: a selection is read as a union over its channels, and SQLite takes no more terms."""

TICKET = "ticket"
"""The query parameter that authentication reads, before all others."""

PATTERN = rf"(?:{'|'.join(KINDS_WITH_ID)}):\*|\*"
POSITION = described(
    text(examples=["0-0", "1795328004217-0", "2026-01-31T12:00:00Z"]),
    "A cursor (0-0: before the oldest event that is kept), or an ISO 8601 time or date.",
)
SELECTOR = text(f"{CHANNEL}|{PATTERN}", examples=["task:42", "task:*", "webhooks", "*"])
TOPIC_FILTER = text(TOPIC_PATTERN, examples=["task.output", "pipeline.*", "*"])

_PARAMETER = object()
T = TypeVar("T")


class ParameterKind(Protocol):
    """A kind of value: parses a parameter's text, and describes it."""

    def read(self, texts: Sequence[str], name: str, settings: Settings) -> Any:
        """Parse a parameter's value.

        Args:
            texts: The texts that were given, at least one, and none empty.
            name: The parameter's name in errors.
            settings: The settings in force.

        Raises:
            Invalid: A text is not of this kind.
        """

    def schema(self, settings: Settings) -> Schema:
        """Return the JSON Schema of a text."""


@attrs.frozen
class Parameter:
    """One parameter of an endpoint.

    Args:
        name: The name as a client writes it.
        field: The field of the class that takes its value.
        kind: Parses and describes its text.
        text: The meaning of the parameter.
        where: ``query``, ``path`` or ``header``.
        default: The value if it is absent.
    """

    name: str
    field: str
    kind: ParameterKind
    text: str
    where: str
    default: Any

    def read(self, asked: Asked, path: Mapping[str, str], settings: Settings) -> Any:
        """Read the parameter from a request.

        Raises:
            Invalid: It is wrong, or missing without a default.
        """
        if self.where == "query":
            texts = [text for text in asked.args.getlist(self.name) if text]
        else:
            text = path[self.name] if self.where == "path" else asked.headers.get(self.name, "").strip()
            texts = [text] if text else []
        return self.kind.read(texts, self.name, settings) if texts else self.default

    def describe(self, settings: Settings) -> Mapping[str, Any]:
        """Describe the parameter for OpenAPI."""
        schema = self.kind.schema(settings)
        if isinstance(self.default, str | int):
            schema = {**schema, "default": self.default}
        required = {"required": True} if self.default is attrs.NOTHING else {}
        return {"name": self.name, "in": self.where, "description": self.text, "schema": schema, **required}


@attrs.frozen
class Nothing:
    """No parameters."""


def query(kind: ParameterKind, text: str, *, default: Any = None, name: str | None = None) -> Any:
    """Declare a field that is read from the query, under ``name`` or else the field's own name.

    With ``attrs.NOTHING`` as its default the parameter is required.
    """
    return _field("query", kind, text, default, name)


def header(name: str, kind: ParameterKind, text: str, *, default: Any = None) -> Any:
    """Declare a field that is read from a header."""
    return _field("header", kind, text, default, name)


def path(kind: ParameterKind, text: str) -> Any:
    """Declare a field that is read from the path."""
    return _field("path", kind, text, attrs.NOTHING, None)


def _field(where: str, kind: ParameterKind, text: str, default: Any, name: str | None) -> Any:
    return attrs.field(default=default, metadata={_PARAMETER: (name, kind, text, where)}, kw_only=True)


@cache
def parameters_of(cls: Any) -> tuple[Parameter, ...]:
    """Return the parameters that a class declares."""
    found = []
    for field in attrs.fields(cls):
        name, kind, words, where = field.metadata[_PARAMETER]
        found.append(Parameter(name or field.name, field.name, kind, words, where, field.default))
    return tuple(found)


@cache
def _given_without_query(cls: Any) -> tuple[Parameter, ...]:
    """Return the parameters to read where the query is empty: all but those of the query with a default."""
    return tuple(one for one in parameters_of(cls) if one.where != "query" or one.default is attrs.NOTHING)


def read_parameters(
    cls: type[T],
    asked: Asked,
    path: Mapping[str, str],
    settings: Settings,
    known: Collection[str] | None = (),
) -> T:
    """Read the parameters of a request.

    Args:
        cls: The class that declares them.
        asked: The request.
        path: The values of its path's parameters.
        settings: The settings in force.
        known: Further names that the query may have; ``None``: unknown names are ignored.

    Raises:
        Invalid: Some are wrong or unknown; all of these are named.
    """
    errors: list[FieldError] = []
    values: dict[str, Any] = {}
    declared: Any = cls
    args = asked.args
    parameters = parameters_of(declared) if args else _given_without_query(declared)
    for one in parameters:
        try:
            value = one.read(asked, path, settings)
        except Invalid as invalid:
            errors += invalid.errors
            continue
        if value is attrs.NOTHING:
            errors.append(FieldError(one.name, "is missing"))
        values[one.field] = value
    if known is not None and args:
        names = [*(one.name for one in parameters if one.where == "query"), *known]
        help_text = f"is unknown; this takes {', '.join(names) or 'no parameters'}"
        errors += [FieldError(name[:100], help_text) for name in args if name not in names]
    if errors:
        raise Invalid(errors)
    return cls(**values)


# Kinds


@attrs.frozen
class Text:
    """Text that a database can keep, of ``low`` to ``high`` characters."""

    low: int | None = None
    high: int | None = None
    example: str | None = None

    def read(self, texts: Sequence[str], name: str, settings: Settings) -> str:
        """Read it."""
        value = require_utf8(texts[0], name)
        if len(value) < (self.low or 0) or (self.high is not None and len(value) > self.high):
            raise Invalid.field(name, f"must have {self.low or 0} to {self.high} characters")
        return value

    def schema(self, settings: Settings) -> Schema:
        """Describe it."""
        more: dict[str, Any] = {
            "minLength": self.low,
            "maxLength": self.high,
            "examples": self.example and [self.example],
        }
        return text(**{name: value for name, value in more.items() if value is not None})


@attrs.frozen
class Texts:
    """Texts, one for each time that the parameter is given."""

    def read(self, texts: Sequence[str], name: str, settings: Settings) -> tuple[str, ...]:
        """Read them."""
        return tuple(require_utf8(one, name) for one in texts)

    def schema(self, settings: Settings) -> Schema:
        """Describe them."""
        return listing(TEXT)


@attrs.frozen
class Whole:
    """A whole number from ``low`` to ``high``."""

    low: int
    high: int

    def read(self, texts: Sequence[str], name: str, settings: Settings) -> int:
        """Read it."""
        digits = texts[0]
        # int() would also accept 1_000, Arabic digits and spaces.
        sound = digits.isascii() and digits.removeprefix("-").isdigit() and len(digits) < 20
        if sound and self.low <= int(digits) <= self.high:
            return int(digits)
        raise Invalid.field(name, f"must be a whole number from {self.low} to {self.high}")

    def schema(self, settings: Settings) -> Schema:
        """Describe it."""
        return whole(self.low, self.high)


@attrs.frozen
class Flag:
    """``true`` or ``false``."""

    def read(self, texts: Sequence[str], name: str, settings: Settings) -> bool:
        """Read it."""
        if texts[0] not in {"true", "false"}:
            raise Invalid.field(name, "must be true or false")
        return texts[0] == "true"

    def schema(self, settings: Settings) -> Schema:
        """Describe it."""
        return {"type": "boolean"}


@attrs.frozen
class Moment:
    """A time or date in ISO 8601, as a ``datetime``."""

    def read(self, texts: Sequence[str], name: str, settings: Settings) -> Any:
        """Read it."""
        return parse_time(_with_plus(texts[0]), name)

    def schema(self, settings: Settings) -> Schema:
        """Describe it."""
        return TEXT


@attrs.frozen
class Word:
    """One of some words, as itself or as the value that ``make`` returns for it."""

    words: Collection[str]
    make: Callable[[str], Any] = str

    def read(self, texts: Sequence[str], name: str, settings: Settings) -> Any:
        """Read it."""
        if texts[0] not in self.words:
            raise Invalid.field(name, f"must be one of {', '.join(self.words)}")
        return self.make(texts[0])

    def schema(self, settings: Settings) -> Schema:
        """Describe it."""
        return one_of(self.words)


@attrs.frozen
class Words:
    """Some of these words, repeated or separated by commas."""

    words: Collection[str]

    def read(self, texts: Sequence[str], name: str, settings: Settings) -> tuple[str, ...]:
        """Read them."""
        values = tuple(part.strip() for one in texts for part in one.split(",") if part.strip())
        if any(value not in self.words for value in values):
            raise Invalid.field(name, f"must be some of {', '.join(self.words)}")
        return values

    def schema(self, settings: Settings) -> Schema:
        """Describe them."""
        return listing(one_of(self.words))


@attrs.frozen
class Place:
    """A position in the log.

    Args:
        id: The position, after which events follow; ``None`` if it is foreign or was not given.
        is_time: Whether it was given as a time, which may be newer than the newest event.
        foreign: Whether it is not a position of ours, such as an event id of another service that an
            EventSource has kept and will send for ever; a refusal would end that EventSource for good.
    """

    id: EventId | None = None
    is_time: bool = False
    foreign: bool = False


@attrs.frozen
class Position:
    """A cursor, or a time, as an event id."""

    def read(self, texts: Sequence[str], name: str, settings: Settings) -> EventId:
        """Read it."""
        return parse_position(_with_plus(texts[0]), name)

    def schema(self, settings: Settings) -> Schema:
        """Describe it."""
        return POSITION


@attrs.frozen
class ClientPosition:
    """The position of an event stream's client, as a ``Place``; every text is accepted."""

    def read(self, texts: Sequence[str], name: str, settings: Settings) -> Place:
        """Read it."""
        text = _with_plus(texts[0].strip())
        try:
            return Place(parse_position(text, name), is_time(text))
        except Invalid:
            return Place(foreign=True)

    def schema(self, settings: Settings) -> Schema:
        """Describe it."""
        return TEXT


@attrs.frozen
class Selectors:
    """Channels and patterns, one for each time that the parameter is given."""

    def read(self, texts: Sequence[str], name: str, settings: Settings) -> tuple[str, ...]:
        """Read them."""
        if len(texts) > self._most(settings):
            raise Invalid.field(name, f"at most {self._most(settings)} channels are taken at once")
        # A plus sign in a query means a space, which no channel has, so it must have been meant literally.
        return tuple(parse_selector(_with_plus(one)) for one in texts)

    def schema(self, settings: Settings) -> Schema:
        """Describe them."""
        return listing(SELECTOR, maxItems=self._most(settings))

    def _most(self, settings: Settings) -> int:
        return min(settings.streams.max_channels, MAX_SELECTORS)


@attrs.frozen
class TopicFilter:
    """A topic, or a pattern of topics."""

    def read(self, texts: Sequence[str], name: str, settings: Settings) -> str:
        """Read it."""
        return parse_topic_pattern(texts[0])

    def schema(self, settings: Settings) -> Schema:
        """Describe it."""
        return TOPIC_FILTER


@attrs.frozen
class Keyset:
    """A list's ``next_cursor``, as ``encode_cursor`` made it.

    Args:
        kinds: The types of its parts.
        make: Makes the key from the parts; raises ``ValueError`` if a list never has such a key.
    """

    kinds: tuple[type, ...]
    make: Callable[..., Any]

    def read(self, texts: Sequence[str], name: str, settings: Settings) -> Any:
        """Read it."""
        parts = _decode(texts[0])
        try:
            if isinstance(parts, list) and tuple(map(type, parts)) == self.kinds:
                return self.make(*parts)
        except ValueError:
            pass
        raise Invalid.field(name, "must be a next_cursor of this list, unchanged")

    def schema(self, settings: Settings) -> Schema:
        """Describe it."""
        return TEXT


@attrs.frozen
class Media:
    """The best of some media types for an ``Accept`` header; the first one if it accepts none of them."""

    kinds: tuple[str, ...]

    def read(self, texts: Sequence[str], name: str, settings: Settings) -> str:
        """Read it."""
        accepted = parse_accept_header(texts[0], MIMEAccept)
        return accepted.best_match(self.kinds, default=self.kinds[0])

    def schema(self, settings: Settings) -> Schema:
        """Describe it."""
        return TEXT


@attrs.frozen
class Coding:
    """Whether an ``Accept-Encoding`` header accepts a coding."""

    name: str

    def read(self, texts: Sequence[str], name: str, settings: Settings) -> bool:
        """Read it."""
        return bool(parse_accept_header(texts[0])[self.name] > 0)

    def schema(self, settings: Settings) -> Schema:
        """Describe it."""
        return TEXT


def page_limit(most: int = MAX_LIMIT, default: int = DEFAULT_LIMIT) -> Any:
    """Declare the parameter ``limit`` of lists."""
    return query(Whole(1, most), "The most items on a page.", default=default)


def page_cursor(make: Callable[..., Any], *kinds: type) -> Any:
    """Declare the parameter ``cursor`` of lists; ``make`` makes the key from parts of these types."""
    return query(Keyset(kinds, make), "A next_cursor of this list, unchanged.")


def encode_cursor(*parts: str | int) -> str:
    """Make an opaque keyset cursor."""
    return base64.urlsafe_b64encode(orjson.dumps(parts)).rstrip(b"=").decode()


def _decode(cursor: str) -> Any:
    try:
        return orjson.loads(
            base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        )
    except (binascii.Error, ValueError):
        return None


def _with_plus(moment: str) -> str:
    """Return a time with the plus sign of its offset, which an unescaped query turns into a space."""
    return moment.replace(" ", "+")


def require_utf8(value: str, field: str) -> str:
    """Check that a text has no lone surrogates and no NUL, which databases can't store.

    Raises:
        Malformed: It has one.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Malformed(f"{field} is not UTF-8") from None
    if "\0" in value:
        raise Invalid.field(field, "must not contain NUL (U+0000)")
    return value
