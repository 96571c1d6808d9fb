"""The graph of a pipeline: its layers, its edges, its cycles, and the forms in which files write it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.model.workflows.pipeline import Edge, Node, Pipeline, layered, read_pipeline
from heliograph.model.workflows.reading import FileProblem
from heliograph.model.yaml import load


def read(text: str) -> tuple[Pipeline, list[FileProblem]]:
    """Read a pipeline's text; return it with its problems."""
    problems: list[FileProblem] = []
    return read_pipeline(load(text.encode()), "pipeline.yaml", problems), problems


def good(text: str) -> Pipeline:
    """Read a pipeline that has no problems."""
    pipeline, problems = read(text)
    assert not problems
    return pipeline


DIAMOND = """
strategy: dag
nodes:
  - {name: a, ref: shop.steps.load}
  - {name: c, ref: shop.agents.reader, dependencies: [a]}
  - {name: b, ref: elsewhere, dependencies: [a]}
  - {id: d, ref: shop.steps.agents, depends_on: [b, c]}
"""


def test_a_graph_has_layers_edges_and_types() -> None:
    """Both words for a name and for dependencies are read; a type is told from the reference."""
    pipeline = good(DIAMOND)
    assert pipeline.strategy == "DAG"
    assert pipeline.layers == (("a",), ("b", "c"), ("d",))
    assert pipeline.edges == (Edge("a", "c"), Edge("a", "b"), Edge("b", "d"), Edge("c", "d"))
    assert [(n.name, n.type, n.layer, n.dependencies) for n in pipeline.nodes] == [
        ("a", "function", 0, ()),
        ("c", "agent", 1, ("a",)),
        ("b", "agent", 1, ("a",)),
        ("d", "function", 2, ("b", "c")),
    ]


def test_a_sequential_pipeline_is_a_chain() -> None:
    """Each step waits for the one before; capitals are the same word, and absent means sequential."""
    for strategy in ("", "strategy: sequential\n", "strategy: SEQUENTIAL\n"):
        pipeline = good(strategy + "steps: [{name: z}, {name: y}, {name: x}]")
        assert pipeline.strategy == "SEQUENTIAL"
        assert pipeline.layers == (("z",), ("y",), ("x",))
        assert pipeline.edges == (Edge("z", "y"), Edge("y", "x"))
        assert [node.dependencies for node in pipeline.nodes] == [(), ("z",), ("y",)]


def test_a_sequential_pipeline_that_says_its_dependencies_keeps_them() -> None:
    """The chain stands in only where the file says nothing."""
    pipeline = good("steps: [{name: a}, {name: b}, {name: c, depends_on: [a]}]")
    assert pipeline.layers == (("a", "b"), ("c",))


def test_what_is_inside_a_step_is_nested() -> None:
    """A loop's body and a parallel's children are in their node, and take no part in the layers."""
    pipeline = good(
        """
        steps:
          - name: again
            type: loop
            body: {name: try, type: function, ref: a.steps.b}
            condition_expr: state.ok
            max_iterations: 3
          - name: both
            type: parallel
            children:
              - {name: one, ref: a.agents.one}
              - {name: two, type: sequential, children: [{name: three}]}
        """
    )
    again, both = pipeline.nodes
    assert again.body == Node("try", "function", "a.steps.b")
    assert (again.condition_expr, again.max_iterations) == ("state.ok", 3)
    assert both.children == (
        Node("one", ref="a.agents.one"),
        Node("two", "sequential", children=(Node("three"),)),
    )
    assert pipeline.layers == (("again",), ("both",))


def test_no_steps_make_an_empty_graph() -> None:
    """A file that says nothing is a sequential pipeline without steps."""
    assert good("") == Pipeline("SEQUENTIAL", (), (), ())


def test_a_cycle_is_named_and_hides_nothing() -> None:
    """What is in or behind a cycle is the last layer, and the problem says the way around."""
    pipeline, (problem,) = read(
        """
strategy: dag
nodes:
  - {name: first}
  - name: a
    dependencies: [first, c]
  - {name: b, dependencies: [a]}
  - {name: c, dependencies: [b]}
  - {name: last, dependencies: [c]}
"""
    )
    assert pipeline.layers == (("first",), ("a", "b", "c", "last"))
    assert [node.layer for node in pipeline.nodes] == [0, 1, 1, 1, 1]
    assert problem.detail.startswith("cycle: ")
    around = problem.detail.removeprefix("cycle: ").split(" -> ")
    assert around[0] == around[-1]
    assert " -> ".join([*around[:-1], *around]).count("a -> b -> c") >= 1
    assert problem.field.endswith("dependencies")
    assert problem.line is not None


def test_a_step_that_waits_for_itself_is_a_cycle() -> None:
    """The shortest cycle is named like any other."""
    _, (problem,) = read("nodes: [{name: a, dependencies: [a]}]\nstrategy: dag")
    assert problem == FileProblem("pipeline.yaml", "cycle: a -> a", "nodes[0].dependencies", 1)


@pytest.mark.parametrize(
    ("text", "field", "line", "words"),
    [
        (
            "strategy: dag\nnodes:\n- {name: a, dependencies: [gone]}",
            "nodes[0].dependencies",
            3,
            "'gone' is no step",
        ),
        ("steps:\n- name: a\n- name: a", "steps[1].name", 3, "named 'a' too"),
        ("steps:\n- ref: x", "steps[0].name", 2, "is missing"),
        ("steps:\n- id: 5", "steps[0].id", 2, "text"),
        ("steps: 5", "steps", 1, "list"),
        ("steps: {a: b}", "steps", 1, "list"),
        ("steps:\n- 5", "steps[0]", 2, "object"),
        ("strategy: maybe", "strategy", 1, "one of sequential, dag"),
        ("strategy: [dag]", "strategy", 1, "text"),
        ("steps:\n- {name: a, type: magic}", "steps[0].type", 2, "one of agent"),
        ("steps:\n- {name: a, ref: 5}", "steps[0].ref", 2, "text"),
        ("steps:\n- {name: a, description: []}", "steps[0].description", 2, "text"),
        ("steps:\n- {name: a, dependencies: b}", "steps[0].dependencies", 2, "list"),
        ("steps:\n- {name: a, dependencies: [5]}", "steps[0].dependencies[0]", 2, "text"),
        ("steps:\n- {name: a, body: 5}", "steps[0].body", 2, "object"),
        ("steps:\n- name: a\n  body:\n    name: 5", "steps[0].body.name", 4, "text"),
        ("steps:\n- {name: a, children: 5}", "steps[0].children", 2, "list"),
        ("steps:\n- {name: a, max_iterations: many}", "steps[0].max_iterations", 2, "whole number"),
        ("- a", "", 1, "object"),
        ("just text", "", 1, "object"),
    ],
)
def test_each_mistake_is_named_with_its_place(text: str, field: str, line: int, words: str) -> None:
    """A wrong type, an unknown word or name, or a missing one is a problem with file, field and line."""
    _, problems = read(text)
    found = [problem for problem in problems if words in problem.detail]
    assert (found[0].file, found[0].field, found[0].line) == ("pipeline.yaml", field, line)


names = st.integers(0, 30).map("n{}".format)


@st.composite
def acyclic(draw: st.DrawFn) -> dict[str, list[str]]:
    """Draw a graph whose nodes wait only for those drawn before them, in any order of names."""
    order = draw(st.lists(names, unique=True, max_size=20))
    graph = {
        name: draw(st.lists(st.sampled_from(order[:position]), unique=True)) if position else []
        for position, name in enumerate(order)
    }
    return {name: graph[name] for name in draw(st.permutations(order))}


@given(acyclic())
def test_layers_respect_every_edge(graph: dict[str, list[str]]) -> None:
    """Every node is in one layer, one behind the last of those that it waits for."""
    layers, cycle = layered(graph)
    assert not cycle
    assert sorted(name for layer in layers for name in layer) == sorted(graph)
    layer_of = {name: number for number, layer in enumerate(layers) for name in layer}
    for name, sources in graph.items():
        assert layer_of[name] == max((layer_of[source] + 1 for source in sources), default=0)


graphs = st.dictionaries(names, st.lists(names, unique=True, max_size=4), max_size=15).map(
    lambda drawn: {name: [source for source in sources if source in drawn] for name, sources in drawn.items()}
)


@given(graphs)
def test_a_cycle_is_found_where_there_is_one(graph: dict[str, list[str]]) -> None:
    """The named cycle is one of the graph's; no node is lost; without a cycle none is named."""
    layers, cycle = layered(graph)
    assert sorted(name for layer in layers for name in layer) == sorted(graph)
    assert all(source in graph[name] for source, name in pairwise(cycle))
    if cycle:
        assert cycle[0] == cycle[-1]
        assert len(cycle) > 1
    else:
        rank = {name: number for number, layer in enumerate(layers) for name in layer}
        assert all(rank[source] < rank[name] for name, sources in graph.items() for source in sources)


def test_ten_thousand_steps_are_read() -> None:
    """A chain as long as a file can be does not exhaust the stack."""
    chain: dict[str, Any] = {f"s{n}": [f"s{n - 1}"] if n else [] for n in range(10_000)}
    layers, _ = layered(chain)
    assert len(layers) == 10_000
