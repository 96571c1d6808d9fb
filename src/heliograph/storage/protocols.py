"""The protocols that the rest of the service knows storage by.

The **log** is the ordered, durable record of events: what it acknowledged survives anything. The
**store** is what is folded out of it, and answers questions. Embedded, one SQLite database is both;
distributed, Redis is the log and PostgreSQL the store. The others are what single actors need. One
conformance suite runs over both forms.

A long module, since it is the only one of its room that other rooms may import: all that storage promises is
read in one place.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import attrs

from heliograph.model.analytics.cube import Cube
from heliograph.model.channels import WHOLE, Selection
from heliograph.model.errors import HeliographError
from heliograph.model.event import Draft, Event
from heliograph.model.ids import OLDEST, EventId
from heliograph.model.kind import Before, Folded, Kind, V
from heliograph.model.settings import RetentionSettings

WHOLE_LOG = Selection((WHOLE,))


@attrs.frozen
class Receipt:
    """The answer to an append: the ids, one per draft and in their order."""

    ids: tuple[EventId, ...]

    @property
    def cursor(self) -> EventId:
        """The position after which all these events have been seen."""
        return max(self.ids)


@attrs.frozen
class Page:
    """Some events in order, and how far the reading got.

    Args:
        events: The events, at most as many as were asked for.
        through: Everything of the selection up to this id is in ``events`` or before them.
        more: Whether there may be more behind ``through``.
        trimmed: Some of the selection's events up to this id were removed by retention before this reading,
            and are missing here; ``OLDEST`` when none after the position that was read from are.
    """

    events: Sequence[Event]
    through: EventId
    more: bool
    trimmed: EventId = OLDEST


@attrs.frozen
class Bounds:
    """The extent of a selection that is kept.

    Args:
        trimmed: Some of its events up to this id were removed by retention; 0 when none were.
        head: The newest id of the whole log.
    """

    trimmed: EventId
    head: EventId


@attrs.frozen
class LogStats:
    """The state of following a log on another server.

    Args:
        reachable: Whether the last try reached it.
        outages: The number of times that it became unreachable since the start.
        losses: The number of times that the position was lost.
        error: Why it is not reachable now.
    """

    reachable: bool
    outages: int
    losses: int
    error: str | None


class PositionLost(HeliographError):
    """The log no longer leads on from a position; some events after it can't be given by anybody.

    Whoever followed from there goes on from ``head``, and tells those whom it served that what comes
    does not connect to what they have. It is raised once: the next ``tail`` from ``head`` goes on.
    """

    def __init__(self, head: EventId, reason: str) -> None:
        self.head = head
        self.reason = reason
        super().__init__(reason)


class Deposed(HeliographError):
    """Another node has taken over what this one was about to do."""


class Log(Protocol):
    """The ordered, durable record of events."""

    @property
    def position(self) -> EventId:
        """The newest id that this node knows to be durable."""
        ...

    async def append(self, requests: Sequence[Sequence[Draft]]) -> Sequence[Receipt | HeliographError]:
        """Append several requests in one durable write; each is kept whole or not at all.

        Returns:
            For each request its receipt, or the error that refused it alone.

        Raises:
            Unavailable: The log can't be written. Nothing of any request is kept, unless the log is another
                server that went away before it answered: then only a retry with the same keys is harmless.
        """
        ...

    async def tail(self, after: EventId) -> Sequence[Event]:
        """Wait for events after a position; return them in order, at least one, at most some thousand.

        Whoever follows in a loop lets others run: at the newest event it waits, and before that reads.

        Raises:
            Unavailable: They can't be read now; to be tried again.
            PositionLost: Events after the position are gone, and no others lead on from it.
        """
        ...

    async def read(self, selection: Selection, after: EventId, limit: int) -> Page:
        """Read a selection's events after a position, oldest first.

        A page may have few events, or none, and ``more`` behind it all the same. What retention has removed
        behind the position is told by ``trimmed``, which is of the same moment as the events.

        Raises:
            Unavailable: They can't be read now.
        """
        ...

    async def tail_start(self, selection: Selection, count: int) -> EventId:
        """Return the position just before the selection's last ``count`` events, or before all that are kept.

        Raises:
            Unavailable: It can't be known now.
        """
        ...

    async def bounds(self, selection: Selection) -> Bounds:
        """Return the extent of a selection that is kept.

        Raises:
            Unavailable: It can't be known now.
        """
        ...


class Archive(Protocol):
    """Moves what was appended into the store, where the two are apart; on one node at a time."""

    async def begin(self) -> bool:
        """Become the archiver unless another node is; tell whether this one is it now.

        Raises:
            Unavailable: The store is away.
        """
        ...

    async def step(self) -> int:
        """Archive the next events, waiting a while for some; return how many. Only after ``begin``.

        Raises:
            Unavailable: The log or the store is away.
            Deposed: Another node archives.
        """
        ...

    def end(self) -> None:
        """Stop being the archiver; harmless when this node is not."""
        ...


@attrs.frozen
class Heard:
    """A message of pub/sub: where it was published, and its bytes."""

    channel: str
    data: bytes


@attrs.frozen
class Entry:
    """An entry of the publishers' stream: its id as Redis writes it, and its fields."""

    id: str
    fields: Mapping[str, bytes]


class Listener(Protocol):
    """Hears what is published beside the log, on one node at a time, by a lease."""

    async def begin(self) -> bool:
        """Take the lease unless another node has it, and begin to hear; tell whether it is held now.

        Raises:
            Unavailable: It can't be asked for.
        """
        ...

    async def hear(self) -> Sequence[Heard | Entry]:
        """Return the entries since the last call, waiting a while for one. Only after ``begin``.

        The messages of pub/sub come first, once. Then come the entries that follow the one that was done
        last: they come again until they are ``done``, on this node or another.

        Raises:
            Unavailable: The connection is lost, and what is published now with it.
            Deposed: The lease was lost.
        """
        ...

    async def hold(self) -> None:
        """Keep the lease while nothing is heard.

        Raises:
            Unavailable: It can't be renewed now.
            Deposed: It was lost.
        """
        ...

    async def append(self, drafts: Sequence[Draft]) -> Sequence[Receipt | HeliographError]:
        """Append drafts to the log, each kept or refused by itself, if the lease is still held.

        Raises:
            Unavailable: The log can't be written now.
            Deposed: The lease was lost; nothing is kept.
        """
        ...

    async def done(self, entry: Entry) -> None:
        """Remember, for whoever holds the lease next, that all entries up to this one are in the log.

        Raises:
            Unavailable: It can't be written down now.
            Deposed: The lease was lost; nothing is changed.
        """
        ...

    async def end(self) -> None:
        """Give the lease up, and hear no more; harmless when it is not held.

        Raises:
            Unavailable: It can't be given up, and will expire.
        """
        ...


class RunName(NamedTuple):
    """The name of a run of any workflow."""

    workflow_id: str
    run_id: str


class Keeper(Protocol):
    """Removes what the store need not keep any longer."""

    @property
    def active(self) -> bool:
        """Whether it is this node that removes."""
        ...

    async def remove_runs(self, policy: RetentionSettings, now: datetime) -> Sequence[RunName]:
        """Remove a part of the runs that are over the retention, with their steps.

        In one transaction, before or after everything else that is said of them: a run that says something
        meanwhile is kept whole, or begins anew.

        Returns:
            Those that were removed; none when there are no more.

        Raises:
            Unavailable: The store is away.
        """
        ...

    async def unknown_runs(self, names: Sequence[RunName]) -> Sequence[RunName]:
        """Return those of some runs of which nothing is kept.

        Raises:
            Unavailable: The store is away.
        """
        ...

    async def sweep(self, policy: RetentionSettings, now: datetime) -> int:
        """Remove one small part of what is over the retention; return how much, 0 when all is done.

        Raises:
            Unavailable: The store is away.
        """
        ...


@attrs.frozen
class LineFilter:
    """The lines of output that a search finds; ``None`` does not filter.

    Args:
        text: A text in the line as it was written; the case of ASCII letters is ignored.
        stream: Only lines of this stream.
    """

    text: str | None = None
    stream: str | None = None


ALL_LINES = LineFilter()


@attrs.define
class LogLine:
    """One line of output, or a marked piece of one; not frozen, since thousands are made at once.

    Args:
        partial: The stream's next piece goes on in the same line.
        rewind: It is written over what the line held so far, as after a lone carriage return.
    """

    seq: int
    id: EventId
    timestamp: datetime
    stream: str
    output: str
    partial: bool = False
    rewind: bool = False


@attrs.frozen
class LogText:
    """Lines of output, none of them marked, as one text.

    Args:
        text: In UTF-8, each line with its end; ``None``: they must be read as lines.
        last_seq: Of the last of them.
    """

    text: bytes | None
    last_seq: int


@attrs.frozen
class RollupSnapshot:
    """The state that an aggregator starts from, all as of one moment.

    Args:
        checkpoint: The last folded event; everything here includes it and those before it.
        changed: The last event that changed any rollup.
        cube: The rollups.
        unfinished: The measured entities that are not finished, with their facts (``analytics.measured``).
        last_delta: The newest event of the channel ``analytics``.
    """

    checkpoint: EventId
    changed: EventId
    cube: Cube
    unfinished: Sequence[Folded]
    last_delta: Event | None


@attrs.frozen
class Group:
    """The entities that have one value of a field.

    Args:
        name: The value; ``None``: those that have none.
        newest: When the newest of them was created.
        counts: How many there are, by the values of another field.
    """

    name: str | None
    newest: datetime
    counts: Mapping[Any, int]


class Store(Protocol):
    """The entities that are folded out of the log."""

    async def list(
        self,
        kind: Kind[V],
        wanted: Any,
        after: Sequence[Any] | None,
        limit: int,
        sort: str | None = None,
        skip: int = 0,
    ) -> tuple[Sequence[V], bool]:
        """List entities in their order until the limit or about a mebibyte; tell whether there are more.

        Args:
            kind: The kind of entity.
            wanted: The kind's filter, such as ``TaskFilter``.
            after: The position of the last entity of the page before: ``Kind.position``, or when sorted the
                value that it is sorted by, and its key.
            limit: The most to return.
            sort: The name of what to sort by instead, largest first.
            skip: The number of entities to leave out first; they cost as if they were listed, so bound it.
        """
        ...

    async def get(self, kind: Kind[V], *key: str) -> V | None:
        """Return one entity, ``None`` if there is none of that key."""
        ...

    async def count(self, kind: Kind[Any], field: str, wanted: Any = None) -> dict[Any, int]:
        """Count the entities that pass a filter by the values of a field, without those that none has."""
        ...

    async def groups(
        self,
        kind: Kind[Any],
        field: str,
        split: str,
        wanted: Any,
        after: tuple[int, str] | None,
        limit: int,
    ) -> tuple[Sequence[Group], bool]:
        """List the values of a field among the entities that pass a filter; tell whether there are more.

        Args:
            kind: Which entities.
            field: What they are grouped by.
            split: What the entities of a group are counted by.
            wanted: The kind's filter.
            after: The position of the last group of the page before: when its newest entity was created, in
                microseconds, and its name.
            limit: The most to return.
        """
        ...

    async def newest(self, kind: Kind[V], field: str, values: Sequence[str]) -> Mapping[str, V]:
        """Return the newest entity of each value of a field, without the fields that may be large."""
        ...

    async def lines(
        self,
        kind: Kind[Any],
        name: str,
        first_seq: int,
        last_seq: int | None,
        limit: int,
        *,
        newest: bool = False,
        wanted: LineFilter = ALL_LINES,
    ) -> tuple[Sequence[LogLine], bool]:
        """Read lines of output in a range of ``seq`` (inclusive), in order; tell whether the range has more.

        Large lines make the answer shorter than ``limit``; it is empty only when there are none.

        Args:
            kind: A kind whose entities have lines (``Kind.lines``).
            name: The id of one of them.
            first_seq: The first number.
            last_seq: The last one; ``None``: to the end.
            limit: The most to return.
            newest: Take the last ``limit`` lines of the range instead of the first.
            wanted: Only these lines.
        """
        ...

    async def text(self, kind: Kind[Any], name: str, first_seq: int) -> LogText | None:
        """Read many lines of output at once as text, from a ``seq`` on; ``None``: there are none.

        Raises:
            Unavailable: The store can't be read now.
        """
        ...

    async def events(
        self,
        selection: Selection,
        before: EventId | None,
        limit: int,
        *,
        after: EventId | None = None,
        sender: str | None = None,
        correlation_id: str | None = None,
    ) -> tuple[Sequence[Event], bool]:
        """List events between two ids (both exclusive), newest first; tell whether there are more.

        Large events make the list shorter than ``limit``; it is empty only when there are none.
        """
        ...

    async def checkpoint(self) -> EventId:
        """Return the id of the last folded event."""
        ...

    async def rollup_snapshot(self) -> RollupSnapshot:
        """Read the rollups, and what is needed to go on from them."""
        ...

    async def before(self, wanted: Mapping[str, EventId]) -> Mapping[str, Before[Any]]:
        """Return the state of finished measured entities before an event, given by entity."""
        ...


class Vault(Protocol):
    """Keeps secrets, which are in no event."""

    async def secrets(self) -> Mapping[str, str]:
        """Return all of them by name.

        Raises:
            Unavailable: They can't be read now.
        """
        ...

    async def keep(self, name: str, secret: str | None) -> None:
        """Keep one durably, or forget it.

        Raises:
            Unavailable: It can't be written now.
        """
        ...


@attrs.frozen
class ArtifactInfo:
    """The facts about an artifact that need no reading of it.

    Args:
        key: Its name within the run.
        size: The size in bytes.
        modified: The time at which it was written.
        etag: Another one after each change.
    """

    key: str
    size: int
    modified: datetime
    etag: str


class Artifacts(Protocol):
    """The files that runs leave behind, by workflow, run and key. All of these are names without slashes.

    Every method raises ``Unavailable`` when the place where they are kept is away.
    """

    async def list(
        self, workflow_id: str, run_id: str, after: str | None = None, limit: int | None = None
    ) -> Sequence[ArtifactInfo]:
        """List a run's artifacts, by key: those behind ``after``, ``limit`` of them if there are."""
        ...

    async def find(self, workflow_id: str, run_id: str, keys: Sequence[str]) -> Mapping[str, ArtifactInfo]:
        """Return those of some artifacts that there are, by key; the run's others cost little."""
        ...

    async def read(
        self, workflow_id: str, run_id: str, key: str, first: int = 0, last: int | None = None
    ) -> tuple[ArtifactInfo, bytes]:
        """Read an artifact, or its bytes from ``first`` through ``last`` (as far as it has them).

        Raises:
            ArtifactNotFound: The run has none of that key.
        """
        ...

    async def write(self, workflow_id: str, run_id: str, key: str, data: bytes) -> ArtifactInfo:
        """Keep an artifact whole, in place of an older one; return when it is durable."""
        ...

    async def delete(self, workflow_id: str, run_id: str, key: str) -> None:
        """Remove an artifact.

        Raises:
            ArtifactNotFound: The run has none of that key.
        """
        ...

    async def delete_old(self, workflow_id: str, run_id: str, before: datetime) -> bool:
        """Remove all that a run has left behind, unless some of it was written at ``before`` or later.

        Returns:
            Whether something was removed.
        """
        ...

    async def runs(self, after: RunName | None, limit: int) -> Sequence[RunName]:
        """Return some of the runs that left something behind, in an order of its own.

        Args:
            after: The run behind which to go on; ``None``: from the beginning.
            limit: At most so many; it may be fewer, and none only at the end.
        """
        ...


class Turn(Protocol):
    """A lease of something that one node at a time does."""

    async def begin(self) -> bool:
        """Take it unless another node has it; tell whether it is held now.

        Raises:
            Unavailable: It can't be asked for.
        """
        ...

    async def hold(self) -> None:
        """Keep it; to be called at least once a second.

        Raises:
            Unavailable: It can't be renewed now.
            Deposed: It was lost.
        """
        ...

    async def end(self) -> None:
        """Give it up; harmless when it is not held.

        Raises:
            Unavailable: It can't be given up, and will expire.
        """
        ...


class Queue(Protocol):
    """Lists of texts that somebody else takes from."""

    async def push(self, name: str, data: bytes) -> None:
        """Put a text at the end of a list.

        Raises:
            Unavailable: It can't be reached; the text may be there nevertheless.
        """
        ...

    async def length(self, name: str) -> int:
        """Return the number of texts that wait in a list.

        Raises:
            Unavailable: It can't be reached.
        """
        ...


class Storage(Protocol):
    """A form of storage that is open: what a node has of it."""

    @property
    def log(self) -> Log:
        """The log."""
        ...

    @property
    def store(self) -> Store:
        """The store."""
        ...

    @property
    def keeper(self) -> Keeper:
        """Removes what need not be kept."""
        ...

    @property
    def vault(self) -> Vault:
        """Keeps secrets."""
        ...

    @property
    def archive(self) -> Archive | None:
        """The archiver's side; ``None`` where log and store are one."""
        ...

    @property
    def listener(self) -> Listener | None:
        """The bridge's side; ``None`` when nothing is to be bridged."""
        ...

    @property
    def queue(self) -> Queue | None:
        """Redis's lists; ``None`` where there is no Redis."""
        ...

    def turn(self, name: str) -> Turn:
        """Return this node's side of a lease."""
        ...

    @property
    def background(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """The tasks that must run while the storage is used, by name."""
        ...

    @property
    def start(self) -> EventId | None:
        """The log's position when it was opened, ``None`` if it could not be reached."""
        ...

    @property
    def latencies(self) -> Mapping[str, float]:
        """The milliseconds that parts on other machines took to answer the last check."""
        ...

    @property
    def clocks(self) -> Mapping[str, float]:
        """By server: how many seconds this machine's clock is ahead of its own, as it was last compared."""
        ...

    async def checks(self) -> dict[str, str | None]:
        """Tell of each part what is wrong with it, ``None`` if nothing is."""
        ...

    def log_stats(self) -> LogStats | None:
        """Return the state of following the log, where it is on another server."""
        ...
