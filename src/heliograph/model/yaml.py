"""Safe parsing of untrusted YAML, within bounds, and with the line of every value.

libyaml scans, which is several times faster than PyYAML's own scanner. PyYAML composes and constructs, so
that both steps can be bounded: a file of a few hundred bytes may stand for a billion values (an alias inside
an alias inside an alias), nest a hundred thousand lists, or name a Python class. The values of JSON are
accepted: objects with text as keys, lists, text, numbers, booleans and null. A date stays text as written. A
duplicate key is an error: taking one of the two silently would be worse.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import attrs
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.cyaml import CParser  # type: ignore[attr-defined]  # the stubs keep it to themselves
from yaml.error import MarkedYAMLError, YAMLError
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.resolver import Resolver

from heliograph.model.errors import Malformed

MAX_BYTES = 256 * 1024
MAX_DEPTH = 40
MAX_VALUES = 50_000
"""The most values in a file; an alias counts as all values that it stands for."""
LONGEST = 2**63
"""The bound of whole numbers, which must fit into 64 bits: from ``-LONGEST`` to below ``LONGEST``."""

Place = tuple[str | int, ...]
"""The path of a value: ``("nodes", 3, "name")``."""


class BadYaml(Malformed):
    """The text is not YAML of the accepted form; ``line`` is the fault's line, from 1, if it is known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        self.line = line
        super().__init__(message)


@attrs.frozen
class Document:
    """One parsed YAML file.

    Args:
        value: The parsed value: dicts, lists, text, numbers, booleans, ``None``. An empty file is ``None``.
        lines: The line of each value, from 1, by its path.
    """

    value: Any
    lines: Mapping[Place, int]

    def line(self, *place: str | int) -> int | None:
        """Return the line of a value, or of the nearest value around it that exists."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place)


def load(data: bytes, max_bytes: int = MAX_BYTES) -> Document:
    """Parse a YAML file.

    Raises:
        BadYaml: It is not YAML in UTF-8, exceeds a bound, or has values that JSON does not have.
    """
    if len(data) > max_bytes:
        raise BadYaml(f"the file has more than {max_bytes} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadYaml(f"byte {error.start} is not UTF-8", data[: error.start].count(b"\n") + 1) from None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Document(None, {})
        lines: dict[Place, int] = {}
        _locate(node, (), lines)
        return Document(loader.construct_document(node), lines)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        raise BadYaml(" ".join(filter(None, (error.context, error.problem))), line) from None
    except YAMLError as error:
        raise BadYaml(" ".join(str(error).split())) from None


class _Loader(Composer, CParser, SafeConstructor, Resolver):
    """Composes libyaml's events within the bounds, and constructs only JSON's values."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, Any]]] = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in Resolver.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        CParser.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self._depth = 0
        self._values = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Compose one value within the bounds."""
        event = self.peek_event()
        if self._depth == MAX_DEPTH:
            raise _refusal(f"nested deeper than {MAX_DEPTH} levels", event)
        before = self._values
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, AliasEvent):
            if id(node) not in self._sizes:
                raise _refusal("an alias stands inside itself", event)
            self._values += self._sizes[id(node)]
        else:
            self._values += 1
            self._sizes[id(node)] = self._values - before
        if self._values > MAX_VALUES:
            raise _refusal(f"the file says more than {MAX_VALUES} values", event)
        return node

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Construct an object; its keys must be text, and different."""
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, MappingNode) else ():
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if not (isinstance(key, ScalarNode) and key.tag == "tag:yaml.org,2002:str"):
                raise _refusal("a key must be text; put it in quotes", key)
            if key.value in seen:
                raise _refusal(f"the key {key.value!r} stands twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def _boolean(self, node: ScalarNode) -> bool:
        try:
            return self.construct_yaml_bool(node)
        except KeyError:  # an explicit tag on something else
            raise _refusal(f"{node.value[:40]!r} is no boolean", node) from None

    def _number(self, node: ScalarNode) -> int | float:
        try:
            whole = node.tag == "tag:yaml.org,2002:int"
            number = self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
        except (
            ValueError,
            IndexError,
        ):  # more digits than Python reads, or an explicit tag on something else
            number = math.inf
        if not -LONGEST <= number < LONGEST if whole else not math.isfinite(number):
            raise _refusal(f"{node.value[:40]!r} is no number of 64 bits", node)
        return number

    def _refuse(self, node: Node) -> None:
        raise _refusal(f"the tag {node.tag[:100]!r} is not taken", node)


_Loader.yaml_constructors = {
    "tag:yaml.org,2002:null": SafeConstructor.construct_yaml_null,
    "tag:yaml.org,2002:bool": _Loader._boolean,
    "tag:yaml.org,2002:int": _Loader._number,
    "tag:yaml.org,2002:float": _Loader._number,
    "tag:yaml.org,2002:str": SafeConstructor.construct_yaml_str,
    "tag:yaml.org,2002:seq": SafeConstructor.construct_yaml_seq,
    "tag:yaml.org,2002:map": SafeConstructor.construct_yaml_map,
    None: _Loader._refuse,
}


def _refusal(problem: str, where: Any) -> MarkedYAMLError:
    """Return the error about an event or a node of the file."""
    return MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


def _locate(node: Node, place: Place, lines: dict[Place, int]) -> None:
    """Note the lines of a value and of all values inside it."""
    lines[place] = node.start_mark.line + 1
    if isinstance(node, SequenceNode):
        for index, member in enumerate(node.value):
            _locate(member, (*place, index), lines)
    elif isinstance(node, MappingNode):
        for key, member in node.value:
            _locate(member, (*place, str(key.value)), lines)
            lines[*place, str(key.value)] = key.start_mark.line + 1
