"""Traces: the steps of a run, with their artifacts.

A step may have two artifacts: ``{step}.json``, whose whole document is the step's output, and
``{step}.llm.json``, a model's answer. If one is missing or is not JSON, the step says so, and has its trace
all the same. A run may have artifacts of steps without events: these are steps, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import attrs
import orjson
import trio

from heliograph.http.api.run_shapes import Dollars, Tokens, dollars
from heliograph.http.api.trace_pages import ANSWER, OUTPUT, TracePage
from heliograph.http.rules.schema import says
from heliograph.model.errors import ArtifactNotFound, Unavailable
from heliograph.model.workflows.facts import Spent, milliseconds
from heliograph.model.workflows.run import Run
from heliograph.model.workflows.step import Attempt, Step, attempts_of
from heliograph.storage.protocols import Artifacts

MAX_DOCUMENT = 1024 * 1024
"""The most bytes of an artifact that is shown in a trace; larger ones must be fetched by themselves."""
MAX_DOCUMENTS = 16 * MAX_DOCUMENT
"""The most bytes of all artifacts that are shown on one page."""
READERS = 16
"""The number of artifacts that are read at once."""
STEP_TRACES = 200
"""The number of steps that are shown between two checkpoints."""


@attrs.frozen
class TokenMetrics:
    """Tokens that a step's models read and wrote, and their cost."""

    prompt_tokens: int
    candidates_tokens: int
    total_tokens: int
    cached_tokens: int
    compression_events: int
    est_cost_usd: float


@attrs.frozen
class TraceStep:
    """A step of a run."""

    name: str
    status: Annotated[str, says("pending, running, success, failed, skipped or cancelled.")]
    artifact_key: Annotated[str | None, says("The key of its output; null where it left none.")]
    artifact_error: Annotated[str | None, says("The reason why an artifact of it is not shown.")]
    output: Annotated[Any, says("The whole document of its artifact, or else the output in its events.")]
    duration_ms: float
    has_llm_response: bool
    llm_response: Annotated[Any, says("The whole document of a model's answer; null if there is none.")]
    token_metrics: TokenMetrics | None
    started_at: datetime | None
    finished_at: datetime | None
    offset_ms: Annotated[float | None, says("The time from the run's start to the step's.")]
    attempts: Annotated[int, says("The number of its attempts.", minimum=0)]
    tries: Annotated[Sequence[Attempt], says("Its attempts, the earliest first; of many only the newest.")]
    error: str | None
    cost_usd: Dollars
    input_tokens: Tokens
    output_tokens: Tokens
    cached_tokens: Tokens


@attrs.frozen
class ShownArtifact:
    """An artifact's document, or why it is not shown.

    Args:
        body: The document as it was kept, which is not encoded again; empty: there is none.
        duration_ms: The duration that it tells.
        spent: The spending that it tells.
        error: The reason why there is none.
    """

    body: bytes = b""
    duration_ms: float | None = None
    spent: Spent | None = None
    error: str | None = None

    @classmethod
    def of(cls, body: bytes) -> ShownArtifact:
        """Read a document; a large one takes tens of milliseconds to parse, and as many to let go.

        Raises:
            orjson.JSONDecodeError: It is not JSON.
        """
        document = orjson.loads(body)
        return cls(b"" if document is None else body, _duration(document), _spent(document))

    @property
    def shown(self) -> Any:
        """The document in an answer."""
        return orjson.Fragment(self.body) if self.body else None


NO_DOCUMENT = ShownArtifact()


@attrs.frozen
class Documents:
    """The artifacts of a step, as far as they can be shown.

    Args:
        key: The key of the step's output, if there is one.
        output: The step's output.
        answer: The answer of a model.
        error: Why one of them is not shown.
    """

    key: str | None = None
    output: ShownArtifact = NO_DOCUMENT
    answer: ShownArtifact = NO_DOCUMENT
    error: str | None = None


async def traced(artifacts: Artifacts, run: Run, page: TracePage) -> Sequence[TraceStep]:
    """Return the trace of the steps of a page."""
    read = await _documents(artifacts, run, page)
    traces = []
    for number, (name, step, _) in enumerate(page.entries, 1):
        if number % STEP_TRACES == 0:
            await trio.lowlevel.checkpoint()
        left = _left(name, page, read)
        traces.append(_untold(run, name, left) if step is None else trace_of(run, step, left))
    return traces


def trace_of(run: Run, step: Step, left: Documents = Documents()) -> TraceStep:
    """Return the trace of a step with events."""
    status = step.status
    if status == "running" and run.ended:
        status = run.status  # the step has no event of its end
    output = step.output if left.key is None else left.output.shown
    told = left.output.duration_ms
    offset = (step.started_at - run.started_at).total_seconds() * 1000
    if step.began is None and step.duration_ms is not None and step.finished_at is not None:
        offset = (step.finished_at - run.started_at).total_seconds() * 1000 - step.duration_ms
    return TraceStep(
        name=step.name,
        status=status,
        artifact_key=left.key,
        artifact_error=left.error,
        output={} if output is None else output,
        duration_ms=told if told is not None else step.duration_ms or 0.0,
        has_llm_response=bool(left.answer.body),
        llm_response=left.answer.shown,
        token_metrics=_metrics(left.answer.spent or step.spent),
        started_at=step.started_at if step.began is not None else None,
        finished_at=step.finished_at,
        offset_ms=round(max(0.0, offset), 3),
        attempts=step.attempts,
        tries=attempts_of(step),
        error=step.error if status in {"failed", "cancelled"} else None,
        cost_usd=dollars(step.cost_nanos),
        input_tokens=step.input_tokens,
        output_tokens=step.output_tokens,
        cached_tokens=step.cached_tokens,
    )


def _untold(run: Run, name: str, left: Documents) -> TraceStep:
    """Return the trace of a step without events: it has artifacts, or has not begun."""
    done = left.key is not None
    status = "success" if done else "skipped" if run.ended else "pending"
    spent = left.answer.spent or Spent()
    output = left.output.shown
    return TraceStep(
        name=name,
        status=status,
        artifact_key=left.key,
        artifact_error=left.error,
        output={} if output is None else output,
        duration_ms=left.output.duration_ms or 0.0,
        has_llm_response=bool(left.answer.body),
        llm_response=left.answer.shown,
        token_metrics=_metrics(spent),
        started_at=None,
        finished_at=None,
        offset_ms=None,
        attempts=int(done),
        tries=(),
        error=None,
        cost_usd=dollars(spent.cost_nanos),
        input_tokens=spent.input_tokens,
        output_tokens=spent.output_tokens,
        cached_tokens=spent.cached_tokens,
    )


async def _documents(artifacts: Artifacts, run: Run, page: TracePage) -> Mapping[str, ShownArtifact]:
    """Read the artifacts of a page's steps, several at once; earlier steps use the page's bytes first."""
    room = MAX_DOCUMENTS
    read: dict[str, ShownArtifact] = {}
    wanted = []
    for entry in page.entries:
        for key in (entry.name + OUTPUT, entry.name + ANSWER):
            info = page.artifacts.get(key)
            if info is None:
                continue
            if info.size > min(room, MAX_DOCUMENT):
                read[key] = ShownArtifact(error=f"{key} has {info.size} bytes: fetch it by itself")
            else:
                room -= info.size
                wanted.append(key)

    # The parser holds the GIL, so several would hold it one after the other.
    parsing = trio.CapacityLimiter(1)

    async def work(keys: Iterator[str]) -> None:
        for key in keys:
            read[key] = await _document(artifacts, run, key, parsing)

    async with trio.open_nursery() as nursery:
        shared = iter(wanted)
        for _ in range(min(READERS, len(wanted))):
            nursery.start_soon(work, shared)
    return read


async def _document(artifacts: Artifacts, run: Run, key: str, parsing: trio.CapacityLimiter) -> ShownArtifact:
    """Read one artifact, which may have been removed or replaced since it was found."""
    try:
        info, data = await artifacts.read(run.workflow_id, run.run_id, key, 0, MAX_DOCUMENT - 1)
        if info.size > len(data):
            return ShownArtifact(error=f"{key} has {info.size} bytes: fetch it by itself")
        return await trio.to_thread.run_sync(ShownArtifact.of, data, limiter=parsing)
    except (ArtifactNotFound, Unavailable) as error:
        return ShownArtifact(error=str(error))
    except orjson.JSONDecodeError as error:
        return ShownArtifact(error=f"{key} is not JSON: {error}")


def _left(name: str, page: TracePage, read: Mapping[str, ShownArtifact]) -> Documents:
    """Return the documents of a step."""
    output, answer = (read.get(name + end, NO_DOCUMENT) for end in (OUTPUT, ANSWER))
    errors = [one.error for one in (output, answer) if one.error is not None]
    return Documents(
        key=name + OUTPUT if name + OUTPUT in page.artifacts else None,
        output=output,
        answer=answer,
        error="; ".join(errors) or page.failure,
    )


def _duration(document: Any) -> float | None:
    return milliseconds(document.get("duration_ms")) if isinstance(document, dict) else None


def _spent(answer: Any) -> Spent | None:
    cost = answer.get("cost") if isinstance(answer, dict) else None
    return Spent.from_payload(cost) if isinstance(cost, dict) else None


def _metrics(spent: Spent) -> TokenMetrics | None:
    """Return spending in the platform's form; ``None`` if it is unknown."""
    if spent == Spent():
        return None
    read, written = spent.input_tokens or 0, spent.output_tokens or 0
    cost = (spent.cost_nanos or 0) / 10**9
    return TokenMetrics(read, written, read + written, spent.cached_tokens or 0, 0, cost)
