"""An endpoint is one declaration: everything that is known of it stands here, once.

The view's own signature says what it takes and answers::

    async def list_tasks(services: Services, who: Identity, asked: TaskListing) -> TaskList:
        \"\"\"List tasks, newest first.\"\"\"

    ENDPOINTS = [Endpoint("GET", "/api/v1/tasks", list_tasks, "tasks", channels=..., example=...)]

``TaskListing`` declares the parameters (see ``rules.parameters``), ``TaskList`` is an attrs class whose JSON
and schema follow from its fields, and the docstring is the summary. A view without a third argument takes no
parameters, and looks at none; with a body, that is the argument behind it. A view is a function of values:
it knows no framework, and raises the errors of ``model.errors``.

From the declarations come Quart's routes, the shortcuts, ``/openapi.json``, the answers to OPTIONS, and the
tests that walk every endpoint. ``serve`` is the one way in.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import attrs

from heliograph.http.rules.access import READING
from heliograph.http.rules.answer import Answer
from heliograph.http.rules.bodies import Body
from heliograph.http.rules.parameters import TICKET
from heliograph.http.wire.connection import Successor
from heliograph.model.errors import Unavailable

View = Callable[..., Awaitable[Any]]
Part = Mapping[str, Any]

_CONVERTER = re.compile(r"\{(\w+):\w+\}")


@attrs.frozen
class Streamed:
    """An answer that is written piece by piece, in constant memory.

    Args:
        chunks: Its body.
        content_type: The media type of the body.
        headers: Further ones.
    """

    chunks: AsyncIterator[bytes]
    content_type: str
    headers: Mapping[str, str] = attrs.field(factory=dict)
    status: int = 200


@attrs.frozen
class Handshake:
    """The parts of the request that a stream needs to write its own head.

    Args:
        headers: The headers that every answer has.
        chunked: Whether the body is chunked (HTTP/1.1).
        address: Where it comes from.
    """

    headers: Mapping[str, str]
    chunked: bool
    address: str | None = None


@attrs.frozen
class TakeOver:
    """The answer of a view that opens a stream: it takes the connection over.

    Args:
        successor: Makes what serves the connection from now on.
        head: The answer to HEAD.
    """

    successor: Callable[[Handshake], Successor]
    head: Answer
    status: int = 200


@attrs.frozen
class Described:
    """The part of ``/openapi.json`` that does not follow from the declaration itself.

    Args:
        answer: The description of a good answer.
        media: Further media types of it, with their schemas.
        headers: Names of its headers.
        others: Further answers, by status.
        more: The description, beside the summary.
    """

    answer: str
    media: Mapping[str, Part] = attrs.field(factory=dict)
    headers: Sequence[str] = ()
    others: Mapping[str, Part] = attrs.field(factory=dict)
    more: str = ""


NOT_JSON = frozenset({Answer, Streamed, TakeOver})
"""Classes of what views return that say themselves what is sent."""

DASHBOARD = "dashboard"
"""The tag of the dashboard API."""


def _as_it_is(found: Any) -> Any:
    return found


def of_view(endpoints: Iterable[Endpoint], view: View) -> Endpoint:
    """Return the endpoint that a view answers."""
    (found,) = [endpoint for endpoint in endpoints if endpoint.view is view]
    return found


def _no_channels(asked: Any) -> Iterable[str]:
    return ()


@attrs.frozen(eq=False)
class Endpoint:
    """One method of one path.

    Args:
        method: The method in capitals; HEAD comes with GET.
        path: The path with parameters in braces; ``{name:path}`` takes slashes too.
        view: Answers, given the services, who asks, the parameters and the body, as far as it names them.
        tag: The group it stands in; empty: it is not described.
        described: The documents' descriptions of its answers.
        scope: The scope that its caller needs; ``None``: it is open to all.
        channels: The selectors that its caller's key must cover, given the parameters.
        body: The body that it takes.
        status: The status of a good answer.
        refuses: Kinds of problems that it may answer with, besides those of every endpoint of its kind.
        example: A good answer, as a value.
        upgrade: It opens a WebSocket, and its caller may say later who it is.
        present: Makes the answer's value of what the view has found; see ``in_dashboard``.
    """

    method: str
    path: str
    view: View
    tag: str = ""
    described: Described = Described("")
    scope: str | None = "read"
    channels: Callable[[Any], Iterable[str]] = _no_channels
    body: Body | None = None
    status: int = 200
    refuses: tuple[type[Exception], ...] = ()
    example: Any = None
    upgrade: bool = False
    present: Callable[[Any], Any] | None = None
    audited: bool = attrs.field()
    """Whether each call is told on the channel ``audit``: it removes something, is an administrator's, or
    gives somebody else the rights of a key. What is published is told in sums."""

    parameters: type | None = attrs.field(init=False)
    forms: tuple[type, ...] = attrs.field(init=False)
    """The classes of its answers."""

    changes: bool = attrs.field(init=False)
    """Whether a page of another origin must not ask: it changes something, or opens a WebSocket."""

    takes_tickets: bool = attrs.field(init=False)
    """Whether a ticket is enough: it is for reading. If it could do more, it could buy others for ever."""

    other_names: tuple[str, ...] | None = attrs.field(init=False)
    """Names in the query besides its parameters'; ``None``: any, since nothing that is open is strict."""

    finds_all_told: bool = attrs.field(init=False)
    """Whether it waits until the store has followed the log; see ``folded``."""

    def __attrs_post_init__(self) -> None:
        """Refuse a declaration whose channels nobody would check."""
        if self.parameters is None and self.channels is not _no_channels:
            raise TypeError(f"{self.name} must take parameters, if only Nothing: its channels depend on them")

    @audited.default
    def _audited(self) -> bool:
        if self.scope is None or self.method in READING:
            return False
        return self.scope != "publish" or self.method == "DELETE"

    @parameters.default
    def _parameters(self) -> type | None:
        names = list(inspect.signature(self.view).parameters)
        return get_type_hints(self.view)[names[2]] if len(names) > 2 else None

    @forms.default
    def _forms(self) -> tuple[type, ...]:
        hint = get_type_hints(self.view)["return"]
        forms = get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)
        if self.present in {None, _as_it_is}:
            return forms
        presented = get_type_hints(self.present)["return"]
        return (presented, *(form for form in forms if form in NOT_JSON))

    @changes.default
    def _changes(self) -> bool:
        return self.upgrade or self.method not in READING

    @takes_tickets.default
    def _takes_tickets(self) -> bool:
        return self.method in READING

    @other_names.default
    def _other_names(self) -> tuple[str, ...] | None:
        if self.scope is None:
            return None
        return (TICKET,) if self.takes_tickets else ()

    @finds_all_told.default
    def _finds_all_told(self) -> bool:
        return self.tag == DASHBOARD and self.scope is not None and Unavailable in self.refuses

    @property
    def answers(self) -> tuple[type, ...]:
        """The classes of those answers that become JSON."""
        return tuple(form for form in self.forms if form not in NOT_JSON)

    def in_dashboard(self, path: str, about: str, present: Callable[[Any], Any] | None = None) -> Endpoint:
        """Make its twin in the dashboard API, which answers in the form that the clients there read.

        The view is the same. Where it finds a page of a list, the cursors go into the headers
        ``X-Next-Cursor``, ``X-Stream-Cursor`` and ``Link``.

        Args:
            path: The path of the twin.
            about: The description of a good answer.
            present: Makes the answer's value of what the view has found, as its annotation says; by default
                it is the same.
        """
        present = present or _as_it_is
        example = None if self.example is None else present(self.example)
        described = attrs.evolve(self.described, answer=about)
        return attrs.evolve(
            self, path=path, tag=DASHBOARD, described=described, present=present, example=example
        )

    @property
    def name(self) -> str:
        """The endpoint's name among all endpoints."""
        return self.view.__name__ if self.present is None else f"dashboard_{self.view.__name__}"

    @property
    def summary(self) -> str:
        """The first line of the view's docstring."""
        return (inspect.getdoc(self.view) or "").partition("\n")[0]

    @property
    def plain_path(self) -> str:
        """The path as OpenAPI writes it, without converters."""
        return _CONVERTER.sub(r"{\1}", self.path)

    @property
    def rule(self) -> str:
        """The path as Quart's routing writes it."""
        return re.sub(r"\{(\w+):(\w+)\}", r"<\2:\1>", self.path).replace("{", "<").replace("}", ">")
