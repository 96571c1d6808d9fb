"""An agent's card: the content of ``*.agent.yaml``, flattened for a dashboard."""

from __future__ import annotations

import attrs

from heliograph.model.workflows.reading import Fields, FileProblem
from heliograph.model.yaml import Document

SUFFIX = ".agent.yaml"
TYPES = ("llm", "code", "custom")


@attrs.frozen
class Card:
    """One agent of a workflow.

    Args:
        name: Its name within the workflow.
        display_name: Its name for people.
        type: ``llm``, ``code`` or ``custom``.
        description: The agent's purpose.
        model: The model that it uses; ``None`` if the card names none.
        stage: Its place among the agents, from 0.
        tools: Names of its tools.
        guardrails_before: The checks of a question before the model sees it.
        guardrails_after: The checks of the model's answer.
        input_schema: Name of its input's schema; ``None`` if the card has none, or has a schema instead of a
            name.
        output_schema: Name of its output's schema, in the same way.
    """

    name: str
    display_name: str
    type: str = "llm"
    description: str = ""
    model: str | None = None
    stage: int = 0
    tools: tuple[str, ...] = ()
    guardrails_before: tuple[str, ...] = ()
    guardrails_after: tuple[str, ...] = ()
    input_schema: str | None = None
    output_schema: str | None = None


def read_card(document: Document, file: str, problems: list[FileProblem]) -> Card | None:
    """Read a card; ``None`` if it names no agent.

    Args:
        document: The parsed file.
        file: Its path, relative to the workflow's folder.
        problems: The list that problems are added to.
    """
    fields = Fields.of(document, file, problems)
    name = fields.text("name")
    if not name:
        fields.wrong("name", "is missing; it is the agent's name")
        return None
    guardrails = fields.inside("guardrails")
    return Card(
        name=name,
        display_name=fields.text("display_name", name),
        type=fields.choice("type", TYPES, "llm"),
        description=fields.text("description"),
        model=fields.text("model") or None,
        stage=fields.whole("stage", 0) or 0,
        tools=_tools(fields),
        guardrails_before=() if guardrails is None else guardrails.texts("before_model"),
        guardrails_after=() if guardrails is None else guardrails.texts("after_model"),
        input_schema=_schema(fields, "input"),
        output_schema=_schema(fields, "output"),
    )


def _tools(fields: Fields) -> tuple[str, ...]:
    """Read the tools' names: each tool is an object with a name, or only the name."""
    tools = fields.get("tools")
    if isinstance(tools, list) and tools and all(isinstance(tool, str) for tool in tools):
        return fields.texts("tools")
    names = []
    for tool in fields.each("tools"):
        if name := tool.text("name"):
            names.append(name)
        else:
            tool.wrong("name", "is missing; it is the tool's name")
    return tuple(names)


def _schema(fields: Fields, name: str) -> str | None:
    """Read ``input`` or ``output``: the name of a schema, as ``{schema_ref}``."""
    inside = fields.inside(name)
    return None if inside is None else inside.text("schema_ref") or None
