"""Files may say anything: it is read, or a problem with its place, and what comes out is of its type."""

from __future__ import annotations

from typing import Any, get_type_hints

import attrs
import cattrs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.model.workflows.cards import Card, read_card
from heliograph.model.workflows.manifest import Manifest, read_manifest
from heliograph.model.workflows.pipeline import Pipeline, read_pipeline
from heliograph.model.workflows.reading import FileProblem
from heliograph.model.yaml import Document

FIELDS = (
    *(
        "name",
        "id",
        "display_name",
        "description",
        "version",
        "enabled",
        "triggers",
        "tags",
        "settings",
        "agents",
    ),
    *(
        "memory",
        "type",
        "key",
        "options",
        "required",
        "default",
        "cards_dir",
        "strategy",
        "steps",
        "nodes",
        "ref",
    ),
    *("dependencies", "depends_on", "body", "children", "condition_expr", "max_iterations", "model", "stage"),
    *("tools", "guardrails", "before_model", "input", "output", "schema_ref"),
)

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(["a", "b", "dag", "../x", "", "llm", "loop"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=25,
)
objects = st.dictionaries(st.sampled_from(FIELDS), anything, max_size=8)


def check(value: Any) -> None:
    """Hold a value against its own types, all the way down, and against JSON."""
    cls = type(value)
    hints = get_type_hints(cls)
    for field in attrs.fields(cls):
        found = getattr(value, field.name)
        for one in found if isinstance(found, tuple) else (found,):
            if attrs.has(type(one)):
                check(one)
        simple = {str: str, int: int, bool: bool}.get(hints[field.name])
        assert simple is None or type(found) is simple, field.name
    orjson.dumps(cattrs.unstructure(value))


@given(objects | anything)
def test_any_manifest(value: Any) -> None:
    """A manifest of anything names a workflow, or says why not; its folder of cards never leads out."""
    problems: list[FileProblem] = []
    manifest, cards = read_manifest(Document(value, {}), "manifest.yaml", problems)
    assert (manifest is None) <= bool(problems)
    assert ".." not in cards.split("/")
    assert not cards.startswith("/")
    if isinstance(manifest, Manifest):
        check(manifest)


@given(objects | anything)
def test_any_pipeline(value: Any) -> None:
    """A pipeline of anything is a graph: each node in one layer, each edge between nodes."""
    problems: list[FileProblem] = []
    pipeline = read_pipeline(Document(value, {}), "pipeline.yaml", problems)
    names = [node.name for node in pipeline.nodes]
    assert len(set(names)) == len(names)
    assert sorted(name for layer in pipeline.layers for name in layer) == sorted(names)
    assert {end for edge in pipeline.edges for end in (edge.source, edge.target)} <= set(names)
    assert all(node.name in pipeline.layers[node.layer] for node in pipeline.nodes)
    assert isinstance(pipeline, Pipeline)
    check(pipeline)


@given(objects | anything)
def test_any_card(value: Any) -> None:
    """A card of anything names an agent, or says why not."""
    problems: list[FileProblem] = []
    card = read_card(Document(value, {}), "a.agent.yaml", problems)
    assert (card is None) <= bool(problems)
    if isinstance(card, Card):
        check(card)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("wrong", [5, True, "text", [1, [2]], {"a": {"b": 1}}])
def test_each_field_may_hold_anything(field: str, wrong: Any) -> None:
    """One wrong field leaves the others as they are."""
    problems: list[FileProblem] = []
    said = {"name": "w", "strategy": "dag", "nodes": [{"name": "x"}], field: wrong}
    manifest, _ = read_manifest(Document(said, {}), "manifest.yaml", problems)
    if field != "name":
        assert manifest is not None
        assert manifest.name == "w"
    pipeline = read_pipeline(Document(said, {}), "pipeline.yaml", problems)
    if field not in {"nodes", "steps"}:
        assert [node.name for node in pipeline.nodes] == ["x"]
    read_card(Document(said, {}), "a.agent.yaml", problems)
    assert all(problem.file and problem.detail for problem in problems)
