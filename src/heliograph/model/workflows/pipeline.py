"""A workflow's pipeline: the graph that ``pipeline.yaml`` describes.

A node's layer is the length of the longest path to it: layer 0 depends on nothing, and the nodes of a layer
can run at the same time (Kahn's algorithm, by ``graphlib``). In a sequential pipeline each step waits for the
one before it, unless the file gives dependencies. Loops and parallels have steps inside; these are nested in
their node, and only the top level has layers.

A cycle has no layers. Nodes in a cycle, or after one, are shown in one last layer, and the cycle is reported
as a problem: drawing a broken pipeline without those nodes would hide just the fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

import attrs

from heliograph.model.workflows.reading import Fields, FileProblem
from heliograph.model.yaml import Document

FILE = "pipeline.yaml"
STRATEGIES = ("sequential", "dag")
TYPES = ("agent", "function", "loop", "parallel", "sequential")


@attrs.frozen
class Node:
    """One step of a pipeline.

    Args:
        name: Unique within the pipeline.
        type: One of ``TYPES``.
        ref: The code that does it.
        description: The step's purpose.
        layer: Its layer; 0 for a step inside another one.
        dependencies: Names of the steps that it waits for.
        body: The steps that a loop repeats.
        condition_expr: The condition that a loop checks before it goes on.
        max_iterations: The most times that a loop repeats.
        children: The steps inside a ``parallel`` or ``sequential`` one.
    """

    name: str
    type: str = "agent"
    ref: str = ""
    description: str = ""
    layer: int = 0
    dependencies: tuple[str, ...] = ()
    body: Node | None = None
    condition_expr: str | None = None
    max_iterations: int | None = None
    children: tuple[Node, ...] | None = None


@attrs.frozen
class Edge:
    """An edge between two steps: ``target`` waits for ``source``."""

    source: str
    target: str


@attrs.frozen
class Pipeline:
    """The graph of a workflow's steps.

    Args:
        strategy: ``SEQUENTIAL`` or ``DAG``.
        nodes: The steps in the file's order.
        edges: Between nodes that exist.
        layers: Names, sorted within each layer.
    """

    strategy: str = "SEQUENTIAL"
    nodes: tuple[Node, ...] = ()
    edges: tuple[Edge, ...] = ()
    layers: tuple[tuple[str, ...], ...] = ()


def read_pipeline(document: Document, file: str, problems: list[FileProblem]) -> Pipeline:
    """Read a pipeline.

    Args:
        document: The parsed file.
        file: Its name.
        problems: The list that problems are added to.
    """
    fields = Fields.of(document, file, problems)
    strategy = fields.choice("strategy", STRATEGIES, "sequential")
    listed = "nodes" if fields.get("nodes") and not fields.get("steps") else "steps"
    steps: dict[str, tuple[Fields, Node]] = {}
    for step in fields.each(listed):
        node = _node(step)
        if node.name in steps:
            step.wrong(_name_field(step), f"another step is named {node.name!r} too")
        elif node.name:
            steps[node.name] = step, node
    waits = {name: _known(step, node, steps) for name, (step, node) in steps.items()}
    if strategy == "sequential" and not any(node.dependencies for _, node in steps.values()):
        names = list(steps)
        waits = {
            name: names[position - 1 : position] if position else [] for position, name in enumerate(names)
        }
    layers, cycle = layered(waits)
    if cycle:
        step, _ = steps[cycle[0]]
        step.wrong(_dependencies_field(step), f"cycle: {' -> '.join(cycle)}")
    layer_of = {name: number for number, layer in enumerate(layers) for name in layer}
    return Pipeline(
        strategy=strategy.upper(),
        nodes=tuple(
            attrs.evolve(node, layer=layer_of[name], dependencies=node.dependencies or tuple(waits[name]))
            for name, (_, node) in steps.items()
        ),
        edges=tuple(Edge(source, target) for target, sources in waits.items() for source in sources),
        layers=tuple(tuple(layer) for layer in layers),
    )


def layered(waits: Mapping[str, Iterable[str]]) -> tuple[list[list[str]], list[str]]:
    """Put names into layers, each after all names that it waits for.

    Args:
        waits: The names that each name waits for; all of these are also keys.

    Returns:
        The layers, and a cycle if there is one: each name before the one that waits for it, and the first
        again at the end. The last layer then has the names in a cycle, or after one.
    """
    sorter = TopologicalSorter(waits)
    cycle: list[str] = []
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = error.args[1]
    layers = []
    while ready := sorter.get_ready():
        layers.append(sorted(ready))
        sorter.done(*ready)
    rest = set(waits).difference(*layers)
    return [*layers, sorted(rest)] if rest else layers, cycle


def _node(fields: Fields) -> Node:
    """Read a step, and the steps inside it."""
    name = fields.text(_name_field(fields))
    if not name:
        fields.wrong(_name_field(fields), "is missing; it is the step's name")
    ref = fields.text("ref")
    body = fields.inside("body")
    return Node(
        name=name,
        type=fields.choice("type", TYPES, type_of(ref)),
        ref=ref,
        description=fields.text("description"),
        dependencies=tuple(dict.fromkeys(fields.texts(_dependencies_field(fields)))),
        body=None if body is None else _node(body),
        condition_expr=fields.text("condition_expr") or None,
        max_iterations=fields.whole("max_iterations"),
        children=None if fields.get("children") is None else tuple(map(_node, fields.each("children"))),
    )


def type_of(ref: str) -> str:
    """Return the type of a step that gives none, by its reference."""
    return "function" if ".steps." in ref and ".agents." not in ref else "agent"


def _known(step: Fields, node: Node, steps: Mapping[str, object]) -> Sequence[str]:
    """Return the existing steps that a node waits for, and report the missing ones."""
    field = _dependencies_field(step)
    for unknown in (name for name in node.dependencies if name not in steps):
        step.wrong(field, f"{unknown!r} is no step of this pipeline")
    return [name for name in node.dependencies if name in steps]


def _name_field(fields: Fields) -> str:
    return "id" if fields.get("name") is None and fields.get("id") is not None else "name"


def _dependencies_field(fields: Fields) -> str:
    return "dependencies" if fields.get("dependencies") is not None else "depends_on"
