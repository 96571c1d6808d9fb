"""A workflow's manifest: the content of ``manifest.yaml``."""

from __future__ import annotations

from typing import Any

import attrs

from heliograph.model.channels import NAME_HELP, is_name
from heliograph.model.workflows.reading import Fields, FileProblem
from heliograph.model.yaml import Document

FILES = ("manifest.yaml", "workflow.yaml")
"""The names that the file may have; the first that exists is read."""

CARDS = "agents"
"""The folder of the agents' cards, unless the manifest names another."""

SETTING_TYPES = ("string", "secret", "number", "boolean", "select")


@attrs.frozen
class Setting:
    """One setting of a workflow.

    Args:
        key: Its name.
        type: One of ``SETTING_TYPES``.
        required: Whether it must be set.
        default: The value if none is set; never shown for a secret.
        description: The description for people who set it.
        options: The values that a ``select`` may have.
    """

    key: str
    type: str = "string"
    required: bool = False
    default: Any = None
    description: str = ""
    options: tuple[Any, ...] = ()


@attrs.frozen
class Manifest:
    """The manifest of a workflow.

    Args:
        name: Its id.
        display_name: Its name for people.
        description: The workflow's purpose.
        version: The workflow's version.
        icon: A character or two.
        color: A colour of CSS.
        enabled: Whether the file switches it on.
        triggers: The causes that start it: each has a ``type``, and the fields that the type needs.
        tags: The tags to find it by.
        settings: The settings that it has.
        memory: The value in the file, of any form.
        agents: Names of its agents.
    """

    name: str
    display_name: str
    description: str = ""
    version: str = ""
    icon: str = ""
    color: str = ""
    enabled: bool = True
    triggers: tuple[dict[str, Any], ...] = ()
    tags: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()
    memory: Any = None
    agents: tuple[str, ...] = ()


def read_manifest(document: Document, file: str, problems: list[FileProblem]) -> tuple[Manifest | None, str]:
    """Read a manifest.

    Args:
        document: The parsed file.
        file: Its name.
        problems: The list that problems are added to.

    Returns:
        The manifest (``None`` if it names no workflow), and the folder of the agents' cards.
    """
    fields = Fields.of(document, file, problems)
    name = fields.text("name")
    if not is_name(name):
        fields.wrong("name", f"must be {NAME_HELP}")
        return None, CARDS
    agents, cards = _agents(fields)
    manifest = Manifest(
        name=name,
        display_name=fields.text("display_name", name),
        description=fields.text("description"),
        version=fields.text("version"),
        icon=fields.text("icon"),
        color=fields.text("color"),
        enabled=fields.flag("enabled", True),
        triggers=tuple(_trigger(trigger) for trigger in fields.each("triggers")),
        tags=fields.texts("tags"),
        settings=tuple(_setting(setting) for setting in fields.each("settings")),
        memory=fields.get("memory"),
        agents=agents,
    )
    return manifest, cards


def _trigger(fields: Fields) -> dict[str, Any]:
    if not fields.text("type"):
        fields.wrong("type", "is missing; it says what starts the workflow")
    return fields.whole_object()


def _setting(fields: Fields) -> Setting:
    if not fields.text("key"):
        fields.wrong("key", "is missing; it is the setting's name")
    kind = fields.choice("type", SETTING_TYPES, "string")
    options = fields.get("options")
    if options is not None and not isinstance(options, list):
        fields.wrong("options", "must be a list")
        options = None
    return Setting(
        key=fields.text("key"),
        type=kind,
        required=fields.flag("required", False),
        default=None if kind == "secret" else fields.get("default"),
        description=fields.text("description"),
        options=tuple(options or ()),
    )


def _agents(fields: Fields) -> tuple[tuple[str, ...], str]:
    """Read ``agents``: a list of names, or ``{cards_dir: …}``; return the names and the folder."""
    if isinstance(fields.get("agents"), list):
        return fields.texts("agents"), CARDS
    inside = fields.inside("agents")
    folder = "" if inside is None else inside.text("cards_dir").rstrip("/")
    if inside is not None and folder and not stays_inside(folder):
        inside.wrong("cards_dir", "must be a folder inside the workflow's own")
        folder = ""
    return (), folder or CARDS


def stays_inside(path: str) -> bool:
    """Tell whether a path, as it is written, can't lead out of the folder in which it starts."""
    parts = path.split("/")
    return not ({"", ".."} & set(parts) or "\\" in path or "\0" in path or ":" in path)
