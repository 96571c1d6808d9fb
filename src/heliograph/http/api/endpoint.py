"""An endpoint is one declaration, from which everything about it follows.

The view's own signature gives its parameters and its answer::

    async def list_tasks(services: Services, who: Identity, asked: TaskListing) -> TaskList:
        \"\"\"List tasks, newest first.\"\"\"

    ENDPOINTS = [Endpoint("GET", "/api/v1/tasks", list_tasks, "tasks", channels=..., example=...)]

``TaskListing`` declares the parameters (see ``rules.parameters``), ``TaskList`` is an attrs class whose JSON
and schema follow from its fields, and the docstring is the summary. A view without a third argument takes no
parameters, and ignores those that are sent; a body is the argument after the parameters. A view is a function
of values: it knows no framework, and raises the errors of ``model.errors``.

Quart's routes, the shortcuts, ``/openapi.json``, the answers to OPTIONS, and the tests that walk every
endpoint are made from the declarations. ``serve`` is the one way in.
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
        chunks: The body.
        content_type: The media type of the body.
        headers: Further headers.
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
        address: The client's address.
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
        media: Further media types of that answer, with their schemas.
        headers: Names of that answer's headers.
        others: Further answers, by status.
        more: The operation's description, beside its summary.
    """

    answer: str
    media: Mapping[str, Part] = attrs.field(factory=dict)
    headers: Sequence[str] = ()
    others: Mapping[str, Part] = attrs.field(factory=dict)
    more: str = ""


NOT_JSON = frozenset({Answer, Streamed, TakeOver})
"""Classes of views' results that are sent as they are."""

DASHBOARD = "dashboard"
"""The tag of the dashboard API."""


def _as_it_is(found: Any) -> Any:
    return found


def of_view(endpoints: Iterable[Endpoint], view: View) -> Endpoint:
    """Return the endpoint of a view."""
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
        view: The view: a function of the services, the caller, the parameters and the body, of which it may
            leave out the last ones.
        tag: The group in the documents; empty: the endpoint is not described.
        described: The documents' descriptions of its answers.
        scope: The scope that the caller needs; ``None``: the endpoint is open to all.
        channels: Returns the selectors that the caller's key must cover, given the parameters.
        body: The form of the body that it takes.
        status: The status of a good answer.
        refuses: Kinds of problems that it may answer with, besides those of every endpoint of its kind.
        example: A good answer, as a value.
        upgrade: Whether it opens a WebSocket, whose caller may authenticate later.
        present: Makes the answer's value from the view's result; see ``in_dashboard``.
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
    """Whether each call is recorded on the channel ``audit``: it removes something, needs an administrator,
    or passes on the rights of a key. Publishing is recorded in sums."""

    parameters: type | None = attrs.field(init=False)
    forms: tuple[type, ...] = attrs.field(init=False)
    """The classes of the view's results, as presented."""

    changes: bool = attrs.field(init=False)
    """Whether the caller's origin is checked: the endpoint changes something, or opens a WebSocket."""

    takes_tickets: bool = attrs.field(init=False)
    """Whether a ticket authenticates a call: only for reading, since a ticket must not make tickets."""

    other_names: tuple[str, ...] | None = attrs.field(init=False)
    """Further names that the query may have; ``None``: any, for an endpoint that is open to all."""

    finds_all_told: bool = attrs.field(init=False)
    """Whether it waits until the store has followed the log; see ``folded``."""

    def __attrs_post_init__(self) -> None:
        """Refuse a declaration whose channels would not be checked."""
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
        """Make the twin of this endpoint in the dashboard API, which answers in that API's form.

        The view is the same. If it returns a page of a list, the cursors go into the headers
        ``X-Next-Cursor``, ``X-Stream-Cursor`` and ``Link``.

        Args:
            path: The path of the twin.
            about: The description of a good answer.
            present: Makes the answer's value from the view's result, with the class of the value as its
                return annotation; by default the result is the value.
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
