"""A workflow: its manifest, its pipeline and its agents' cards, put together from its files."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from heliograph.model.workflows.cards import Card, read_card
from heliograph.model.workflows.manifest import Manifest
from heliograph.model.workflows.pipeline import Pipeline, read_pipeline
from heliograph.model.workflows.reading import FileProblem, printable
from heliograph.model.yaml import Document


@attrs.frozen
class Workflow:
    """One workflow, as its files describe it.

    Args:
        manifest: The parsed manifest.
        pipeline: The pipeline; without steps if there is no file for it.
        cards: Its agents.
        problems: The faults in its files.
    """

    manifest: Manifest
    pipeline: Pipeline = attrs.field(factory=Pipeline)
    cards: tuple[Card, ...] = ()
    problems: tuple[FileProblem, ...] = ()

    @property
    def id(self) -> str:
        """The workflow's id, the name in its manifest."""
        return self.manifest.name


@attrs.frozen
class Broken:
    """A folder that should be a workflow but can't be read.

    Args:
        folder: Its name.
        problems: The faults; at least one.
    """

    folder: str = attrs.field(converter=printable)
    problems: tuple[FileProblem, ...]


def put_together(
    manifest: Manifest,
    pipeline: tuple[str, Document] | None,
    cards: Mapping[str, Document],
    problems: list[FileProblem],
) -> Workflow:
    """Make a workflow from its files.

    Args:
        manifest: The parsed manifest.
        pipeline: The name and the content of the pipeline's file, if there is one.
        cards: The cards, by file.
        problems: The problems so far, to which further ones are added.
    """
    graph = Pipeline() if pipeline is None else read_pipeline(pipeline[1], pipeline[0], problems)
    by_name: dict[str, Card] = {}
    for file, document in sorted(cards.items()):
        card = read_card(document, file, problems)
        if card is not None and by_name.setdefault(card.name, card) is not card:
            problems.append(
                FileProblem(file, f"another card is named {card.name!r} too", "name", document.line("name"))
            )
    return Workflow(
        attrs.evolve(manifest, agents=tuple(by_name) or manifest.agents),
        graph,
        tuple(by_name.values()),
        tuple(problems),
    )
