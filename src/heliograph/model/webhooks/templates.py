"""Templates of tasks' inputs: written in a webhook's configuration, filled from a delivery.

The language is the part of Jinja2 for filling in: values, conditions, loops, filters. The sandbox keeps
templates away from Python, and further limits keep them small. There are no assignments, so no text can be
doubled again and again. The iterations of all loops together are limited, and so is the whole time. Filters
and methods that can make a gigabyte out of a letter are missing; joining and replacing check the length
first; and the output is limited. Values that a delivery lacks are empty, since deliveries of one kind differ;
objects and lists are written as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from time import monotonic
from typing import Any

import orjson
from jinja2 import ChainableUndefined, Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MOST_TEMPLATE = 50_000
MOST_OUTPUT = 100_000
"""The most characters of a template, and of its output."""
MOST_TEXT = 1_000_000
"""The most characters of an intermediate text."""
MOST_TURNS = 10_000
MOST_NESTED = 3
"""The most iterations of all loops together, and the deepest nesting of loops."""
MOST_SECONDS = 0.5
"""The longest time for filling a template, during which no other task runs."""

FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items", "join"),
    *("last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse"),
    *("round", "select", "selectattr", "sort", "string", "striptags", "sum", "title", "tojson", "trim"),
    *("truncate", "unique", "upper", "wordcount"),
)
METHODS = frozenset(
    {
        *(
            "endswith",
            "get",
            "items",
            "keys",
            "lower",
            "lstrip",
            "rstrip",
            "split",
            "splitlines",
            "startswith",
        ),
        *("strip", "title", "upper", "values"),
    }
)

_FILLING = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.CondExpr),
    *(nodes.Const, nodes.Name, nodes.NSRef, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Keyword),
    *(nodes.Filter, nodes.Test, nodes.Call, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not),
    *(nodes.Neg, nodes.Pos, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod),
    *(nodes.Concat, nodes.List, nodes.Tuple),
)
_TURN, _JOIN = "__turn__", "__join__"


class BadTemplate(ValueError):
    """A template is refused, or can't be filled; the message gives the reason."""


def check(template: str) -> str | None:
    """Return the fault of a template; ``None`` if it has none."""
    try:
        _compiled(template)
    except BadTemplate as error:
        return str(error)
    return None


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Fill a template.

    Raises:
        BadTemplate: It uses something that does not exist, or exceeds a limit.
    """
    turns = iter(range(MOST_TURNS))
    deadline = monotonic() + MOST_SECONDS

    def turn() -> str:
        if next(turns, None) is None:
            raise SecurityError(f"its loops take more than {MOST_TURNS} turns")
        if monotonic() > deadline:
            raise SecurityError(f"it takes longer than {MOST_SECONDS} s")
        return ""

    said: list[str] = []
    left = MOST_OUTPUT
    try:
        for piece in _compiled(template).generate({**values, _TURN: turn, _JOIN: _join}):
            said.append(piece[:left])
            left -= len(piece)
            if monotonic() > deadline:
                raise SecurityError(f"it takes longer than {MOST_SECONDS} s")
            if left < 0:
                return "".join(said) + "…"
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise BadTemplate(f"the template can't be filled: {error}") from None
    return "".join(said)


@lru_cache(500)
def _compiled(template: str) -> Template:
    if len(template) > MOST_TEMPLATE:
        raise BadTemplate(f"must have at most {MOST_TEMPLATE} characters")
    try:
        return ENVIRONMENT.from_string(template)
    except (TemplateError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        where = "" if line is None else f" (line {line} of the template)"
        raise BadTemplate(f"is no template that is taken: {error}{where}") from None


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "%"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _refuse_more_than_filling(tree, 0)
        held: nodes.Template = _Bounds().visit(tree)
        return held

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            return _join(left, right)
        if not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise SecurityError(f"{operator} is for numbers")
        return super().call_binop(context, operator, left, right)


def _refuse_more_than_filling(node: nodes.Node, loops: int) -> None:
    if not isinstance(node, _FILLING):
        raise SecurityError(f"{type(node).__name__.lower()} is not taken here: templates only fill in")
    match node:
        case nodes.For():
            loops += 1
            if loops > MOST_NESTED or node.recursive:
                raise SecurityError(f"loops may be {MOST_NESTED} deep, and not recursive")
        case nodes.Call(node=nodes.Name(name="range")):
            pass
        case nodes.Call(node=nodes.Getattr(attr=name)) if name in METHODS:
            pass
        case nodes.Call():
            raise SecurityError(f"only range and {', '.join(sorted(METHODS))} are called here")
        case nodes.List() | nodes.Tuple(ctx="load"):
            if not all(isinstance(item, nodes.Const) for item in node.items):
                raise SecurityError("lists are of constants")
        case nodes.Name(name=name) if name.startswith("__"):
            raise SecurityError(f"{name} is not taken here")
    for child in node.iter_child_nodes():
        _refuse_more_than_filling(child, loops)


class _Bounds(NodeTransformer):
    """Counts the iterations of loops, and checks the length before joining."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - named by Jinja2
        self.generic_visit(node)
        node.body.insert(0, nodes.Output([_call(_TURN, [])]))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:  # noqa: N802 - named by Jinja2
        self.generic_visit(node)
        return _call(_JOIN, node.nodes)


def _call(name: str, arguments: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.Name(name, "load"), arguments, [], None, None)


def _written(value: Any) -> str:
    match value:
        case None:
            return ""
        case dict() | list():
            return orjson.dumps(value, default=str).decode()
    return str(value)


def _join(*values: Any) -> str:
    return _bounded("".join, [_written(value) for value in values])


def _join_filter(values: Iterable[Any], between: str = "", attribute: str | None = None) -> str:
    texts = [
        _written(value if attribute is None else ENVIRONMENT.getitem(value, attribute)) for value in values
    ]
    if len(between) * len(texts) > MOST_TEXT:
        raise SecurityError("a text is too long")
    return _bounded(between.join, texts)


def _bounded(join: Callable[[list[str]], str], texts: list[str]) -> str:
    if sum(map(len, texts)) > MOST_TEXT:
        raise SecurityError("a text is too long")
    return join(texts)


def _replace(value: Any, old: str, new: str, count: int = -1) -> str:
    text = _written(value)
    if len(text) + (text.count(old) if old else len(text) + 1) * len(new) > MOST_TEXT:
        raise SecurityError("a text is too long")
    return text.replace(old, new, count)


ENVIRONMENT = _Environment(
    undefined=ChainableUndefined, finalize=_written, keep_trailing_newline=True, autoescape=False
)
ENVIRONMENT.globals = {"range": ENVIRONMENT.globals["range"]}
ENVIRONMENT.filters = {name: ENVIRONMENT.filters[name] for name in FILTERS}
ENVIRONMENT.filters |= {"join": _join_filter, "replace": _replace}
