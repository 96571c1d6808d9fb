"""Pages of a run's trace: the steps on a page, their order, and the position of the next page.

A trace has three parts. First come the pipeline's steps in its order; those of its top level are listed even
if they have not begun. Then come other steps with events, in the order in which they began. Last come steps
without events that have artifacts. A page reads only the steps that it shows, and their artifacts. Only the
pages of the last part list all artifacts.

The position of a page's end is the last step's number in the pipeline, its beginning, or its name, depending
on the part. So changes of other steps meanwhile do not move it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import attrs

from heliograph.model.errors import Unavailable
from heliograph.model.ids import from_microseconds, to_microseconds
from heliograph.model.workflows.pipeline import Node, Pipeline
from heliograph.model.workflows.run import Run
from heliograph.model.workflows.step import STEP, Step, StepFilter
from heliograph.model.workflows.vocabulary import id_of
from heliograph.storage.protocols import ArtifactInfo, Artifacts, Questions

OUTPUT, ANSWER = ".json", ".llm.json"
"""The ends of the keys of a step's artifacts: its output, and a model's answer."""
IN_PIPELINE, BESIDE_IT, UNTOLD = range(3)
LISTED = 1000
"""The number of artifacts that are listed at a time."""


class TracePlace(NamedTuple):
    """The position of a step in its trace.

    Args:
        part: One of ``IN_PIPELINE``, ``BESIDE_IT``, ``UNTOLD``.
        number: By part: the step's number in the pipeline; the time of its beginning, in microseconds; 0.
        name: By part: the step's name; its id; its name.
    """

    part: int
    number: int
    name: str


def place_of(part: int, number: int, name: str) -> TracePlace:
    """Make a place from the parts of a cursor.

    Raises:
        ValueError: No step can have this place.
    """
    if part not in {IN_PIPELINE, BESIDE_IT, UNTOLD} or not 0 <= number < 2**58 or "\0" in name:
        raise ValueError("no step stands there")
    return TracePlace(part, number, name)


class PagedStep(NamedTuple):
    """One step of a page; ``step`` is ``None`` if it has no events."""

    name: str
    step: Step | None
    place: TracePlace


@attrs.frozen
class TracePage:
    """Some steps of a trace.

    Args:
        entries: The steps.
        artifacts: Their artifacts, by key.
        failure: Why the artifacts are not known; ``None`` if they are.
        following: The place after which the next page begins; ``None`` on the last page.
    """

    entries: Sequence[PagedStep]
    artifacts: Mapping[str, ArtifactInfo]
    failure: str | None
    following: TracePlace | None


async def page_of(
    store: Questions,
    artifacts: Artifacts,
    run: Run,
    pipeline: Pipeline | None,
    after: TracePlace | None,
    limit: int,
) -> TracePage:
    """Read a page of a run's trace.

    Args:
        store: The store of the steps.
        artifacts: The storage of their artifacts.
        run: The run.
        pipeline: The workflow's pipeline, if it has one.
        after: The place after which the page begins; ``None``: at the first step.
        limit: The most steps; a page has fewer if these are large.
    """
    reading = _Gathering(store, artifacts, run, pipeline, limit + 1)
    await reading.read(after)
    entries = reading.entries[:limit]
    more = reading.cut or len(reading.entries) > limit
    return TracePage(entries, reading.found, reading.failure, entries[-1].place if more else None)


class _Gathering:
    """Gathers the steps of a page.

    Args:
        wanted: The size of the page and one more, which tells whether there is a next page.
    """

    def __init__(
        self, store: Questions, artifacts: Artifacts, run: Run, pipeline: Pipeline | None, wanted: int
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._run = run
        nodes = () if pipeline is None else pipeline.nodes
        self._known = {name: number for number, name in enumerate(dict.fromkeys(_names(nodes)))}
        self._always = {node.name for node in nodes}
        self._wanted = wanted
        self.entries: list[PagedStep] = []
        self.found: dict[str, ArtifactInfo] = {}
        self.failure: str | None = None
        self.cut = False

    @property
    def _room(self) -> int:
        """The number of steps that are still wanted."""
        return 0 if self.cut else self._wanted - len(self.entries)

    async def read(self, after: TracePlace | None) -> None:
        """Read the parts of the trace in turn, from the place ``after`` on."""
        part = IN_PIPELINE if after is None else after.part
        if part == IN_PIPELINE:
            await self._read_known(0 if after is None else self._known.get(after.name, after.number) + 1)
        if part <= BESIDE_IT and self._room > 0:
            await self._read_others(after if part == BESIDE_IT else None)
        if self._room > 0:
            await self._read_untold(after if part == UNTOLD else None)

    async def _read_known(self, start: int) -> None:
        """Read the pipeline's steps from the number ``start`` on."""
        names = list(self._known)
        while start < len(names) and self._room > 0:
            asked = names[start : start + self._room]
            told, count = await self._read_steps(asked)
            some = asked[:count]
            await self._find(some)
            for number, name in enumerate(some, start):
                if name in told or name in self._always or name + OUTPUT in self.found:
                    self.entries.append(
                        PagedStep(name, told.get(name), TracePlace(IN_PIPELINE, number, name))
                    )
            start += count
            self.cut = count < len(asked) and bool(self.entries)

    async def _read_steps(self, names: Sequence[str]) -> tuple[Mapping[str, Step], int]:
        """Read the steps among ``names`` that have events; return them, and how many names were read.

        Steps may be large, so the store may return only a part of them: then half as many are asked for.
        """
        run, count = self._run, len(names)
        while True:
            ids = tuple(id_of(run.run_id, run.workflow_id, name) for name in names[:count])
            steps, more = await self._store.list(STEP, StepFilter(ids=ids), None, count)
            if not more or count == 1:
                return {step.name: step for step in steps}, count
            count //= 2

    async def _read_others(self, after: TracePlace | None) -> None:
        """Read the steps with events that the pipeline does not have, after a place."""
        wanted = StepFilter(self._run.run_id, self._run.workflow_id, but=tuple(self._known))
        position = None if after is None else (from_microseconds(after.number), after.name)
        steps, self.cut = await self._store.list(STEP, wanted, position, self._room)
        await self._find([step.name for step in steps])
        for step in steps:
            place = TracePlace(BESIDE_IT, to_microseconds(step.started_at), step.id)
            self.entries.append(PagedStep(step.name, step, place))

    async def _read_untold(self, after: TracePlace | None) -> None:
        """Read the steps that have only artifacts, after a place."""
        run, key = self._run, None if after is None else after.name + OUTPUT
        while self._room > 0 and self.failure is None:
            try:
                listed = await self._artifacts.list(run.workflow_id, run.run_id, key, LISTED)
            except Unavailable as error:
                self.failure = str(error)
                return
            left = (
                info.key for info in listed if info.key.endswith(OUTPUT) and not info.key.endswith(ANSWER)
            )
            names = [name for name in map(_step_of, left) if name not in self._known]
            ids = tuple(id_of(run.run_id, run.workflow_id, name) for name in names)
            told = await self._store.count(STEP, "name", StepFilter(ids=ids)) if ids else {}
            untold = [name for name in names if name not in told][: self._room]
            await self._find(untold)
            self.entries += [PagedStep(name, None, TracePlace(UNTOLD, 0, name)) for name in untold]
            if len(listed) < LISTED:
                return
            key = listed[-1].key

    async def _find(self, names: Sequence[str]) -> None:
        """Look up the artifacts of some steps."""
        keys = [name + end for name in names for end in (OUTPUT, ANSWER)]
        if not keys or self.failure is not None:
            return
        try:
            self.found |= await self._artifacts.find(self._run.workflow_id, self._run.run_id, keys)
        except Unavailable as error:
            self.failure = str(error)


def _step_of(key: str) -> str:
    return key.removesuffix(OUTPUT)


def _names(nodes: Iterable[Node]) -> Iterable[str]:
    """Yield the names of nodes and of the nodes inside them, in the file's order."""
    for node in nodes:
        yield node.name
        yield from _names([*([node.body] if node.body else ()), *(node.children or ())])
