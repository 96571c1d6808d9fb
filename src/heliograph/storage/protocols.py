"""The protocols by which the rest of the service uses storage.

The **log** is the ordered, durable record of events: what it acknowledged survives anything. The
**store** is folded out of the log, and answers questions. Embedded, one SQLite database is both;
distributed, Redis is the log and PostgreSQL the store. The other protocols serve single actors. One
conformance suite runs over both forms.

A long module, since it is the only one of its room that other rooms may import: all promises of storage are
in one place.
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
        """The position of a client that has seen all these events."""
        return max(self.ids)


@attrs.frozen
class Page:
    """Some events in order, and how far the reading got.

    Args:
        events: The events, at most as many as were asked for.
        through: No event of the selection up to this id follows after ``events``.
        more: Whether there may be events of the selection after ``through``.
        trimmed: Retention has removed some of the selection's events up to this id, so they are missing here;
            ``OLDEST`` if none are missing after the position that was read from.
    """

    events: Sequence[Event]
    through: EventId
    more: bool
    trimmed: EventId = OLDEST


@attrs.frozen
class Bounds:
    """The extent of a selection that is kept.

    Args:
        trimmed: Retention has removed some of its events up to this id; 0 when it has removed none.
        head: The newest id of the whole log.
    """

    trimmed: EventId
    head: EventId


@attrs.frozen
class LostRange:
    """A range of ids, without its ends, in which no event is or will be, but may have been: it is lost."""

    after: EventId
    before: EventId


@attrs.frozen
class LogStats:
    """The state of following a log on another server.

    Args:
        reachable: Whether the last try reached the server.
        outages: The number of times that the server became unreachable since the start.
        losses: The number of times that the position was lost.
        error: Why the server is not reachable now.
    """

    reachable: bool
    outages: int
    losses: int
    error: str | None


class PositionLost(HeliographError):
    """The log no longer has all events after a position.

    A follower goes on from ``head``, and tells its own readers that the next events do not connect to those
    they have. The error is raised once: the next ``tail`` from ``head`` goes on.
    """

    def __init__(self, head: EventId, reason: str) -> None:
        self.head = head
        self.reason = reason
        super().__init__(reason)


class Deposed(HeliographError):
    """Another node has taken over this node's turn."""


class Log(Protocol):
    """The ordered, durable record of events."""

    @property
    def position(self) -> EventId:
        """The newest id that this node knows to be durable."""
        ...

    async def append(self, requests: Sequence[Sequence[Draft]]) -> Sequence[Receipt | HeliographError]:
        """Append several requests in one durable write, each whole or not at all.

        Returns:
            For each request its receipt, or the error that refused it alone.

        Raises:
            Unavailable: The log can't be written. Nothing of any request is kept, unless the log is another
                server that went away before it answered: then only a retry with the same keys is harmless.
        """
        ...

    async def tail(self, after: EventId) -> Sequence[Event]:
        """Wait for events after a position; return them in order, at least one, at most some thousand.

        A loop over ``tail`` lets other tasks run: it waits at the newest event, and reads before that.

        Raises:
            Unavailable: They can't be read now; try again.
            PositionLost: Events after the position are gone, and no others lead on from it.
        """
        ...

    async def read(self, selection: Selection, after: EventId, limit: int) -> Page:
        """Read a selection's events after a position, oldest first.

        A page may have few events, or none, although there are ``more``. ``trimmed`` tells what retention has
        removed after the position, as of the same moment as the events.

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

    @property
    def losses(self) -> Sequence[LostRange]:
        """The newest ranges in which the log may have lost acknowledged events, as this node knows them."""
        ...


class Archive(Protocol):
    """Moves events from the log into the store, where these are apart; on one node at a time."""

    async def begin(self) -> bool:
        """Become the archiver unless another node is; tell whether this node is the archiver now.

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
class PubSubMessage:
    """A message of pub/sub: where it was published, and its bytes."""

    channel: str
    data: bytes


@attrs.frozen
class Entry:
    """An entry of the publishers' stream: its id as Redis writes it, and its fields."""

    id: str
    fields: Mapping[str, bytes]


class Listener(Protocol):
    """Receives what is published outside the log, on one node at a time, by a lease."""

    async def begin(self) -> bool:
        """Take the lease unless another node has it, and subscribe; tell whether this node holds it now.

        Raises:
            Unavailable: It can't be asked for.
        """
        ...

    async def receive(self) -> Sequence[PubSubMessage | Entry]:
        """Return new messages and entries, waiting a while for one. Only after ``begin``.

        The messages of pub/sub come first, each once. Then come the entries after the last one that is
        ``done``: an entry is returned again until it is done, on this node or another.

        Raises:
            Unavailable: The connection is lost; messages that are published meanwhile are lost, too.
            Deposed: The lease was lost.
        """
        ...

    async def hold(self) -> None:
        """Renew the lease between two calls of ``receive``.

        Raises:
            Unavailable: The lease can't be renewed now.
            Deposed: The lease was lost.
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
        """Write down, for the next holder of the lease, that all entries up to ``entry`` are in the log.

        Raises:
            Unavailable: It can't be written now.
            Deposed: The lease was lost; nothing is changed.
        """
        ...

    async def end(self) -> None:
        """Release the lease, and unsubscribe; harmless when the lease is not held.

        Raises:
            Unavailable: The lease can't be released, and will expire.
        """
        ...


class RunName(NamedTuple):
    """The name of a run of any workflow."""

    workflow_id: str
    run_id: str


Place = str | int
"""A place in a walk over all channels; only the keeper knows what it means."""

BEGINNING: Place = ""


@attrs.frozen
class Forgotten:
    """A part of a walk over all channels.

    Args:
        channels: The number of channels in it that are kept.
        number: The number of channels in it that were forgotten.
        place: Where the next part begins; ``None``: that was the last one.
    """

    channels: int
    number: int
    place: Place | None


class Keeper(Protocol):
    """Removes what retention does not keep."""

    @property
    def active(self) -> bool:
        """Whether this node is the one that removes."""
        ...

    async def remove_runs(self, policy: RetentionSettings, now: datetime) -> Sequence[RunName]:
        """Remove a part of the runs that are over the retention, with their steps.

        It is one transaction, before or after every fold of the runs' events: a run with news meanwhile is
        either kept whole or begins anew.

        Returns:
            The runs that were removed; none when there are no more.

        Raises:
            Unavailable: The store is away.
        """
        ...

    async def unknown_runs(self, names: Sequence[RunName]) -> Sequence[RunName]:
        """Return the runs among ``names`` of which nothing is kept.

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

    async def forget(self, now: datetime, place: Place) -> Forgotten:
        """Forget those of the next channels of which nothing is kept, and which have been silent for a day.

        The next event of a forgotten channel has ``seq`` 1. A channel with an event on its way into the store
        is not forgotten. A cursor into a forgotten channel is answered as one from before what is kept.

        Args:
            now: The time.
            place: ``Forgotten.place`` of the part before; ``BEGINNING`` for the first one.

        Raises:
            Unavailable: The log or the store is away.
        """
        ...


@attrs.frozen
class LineFilter:
    """The lines of output that a search finds; ``None`` does not filter.

    Args:
        text: Only lines that contain this text as it was written; the case of ASCII letters is ignored.
        stream: Only lines of this stream.
    """

    text: str | None = None
    stream: str | None = None


ALL_LINES = LineFilter()


@attrs.define
class LogLine:
    """One line of output, or a marked piece of one; not frozen, since thousands are made at once.

    Args:
        partial: Whether the stream's next piece goes on in the same line.
        rewind: Whether it overwrites the line so far, as after a lone carriage return.
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
        text: The lines in UTF-8, each with its end; ``None``: they must be read as lines.
        last_seq: The ``seq`` of the last line.
    """

    text: bytes | None
    last_seq: int


@attrs.frozen
class RollupSnapshot:
    """The state that an aggregator starts from, all as of one moment.

    Args:
        checkpoint: The last folded event; the snapshot includes it and all before it.
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
        name: The value; ``None``: the entities without one.
        newest: When the newest entity was created.
        counts: The number of entities by the values of another field.
    """

    name: str | None
    newest: datetime
    counts: Mapping[Any, int]


class Questions(Protocol):
    """Questions about the entities that are folded out of the log, and about events."""

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
            after: The position of the last entity of the page before: ``Kind.position``; with ``sort`` the
                value that it is sorted by, and its key.
            limit: The most to return.
            sort: The name of a value to sort by instead, largest first.
            skip: The number of entities to leave out first; they cost as much as listed ones, so bound it.
        """
        ...

    async def get(self, kind: Kind[V], *key: str) -> V | None:
        """Return the entity of a key; ``None`` if there is none."""
        ...

    async def count(self, kind: Kind[Any], field: str, wanted: Any = None) -> dict[Any, int]:
        """Count the entities that pass a filter by the values of ``field``; unused values are left out."""
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
            kind: The kind of entity.
            field: The field that they are grouped by.
            split: The field by whose values each group's entities are counted.
            wanted: The kind's filter.
            after: The position of the last group of the page before: the time at which its newest entity was
                created, in microseconds, and its name.
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
            name: The id of one of its entities.
            first_seq: The first ``seq``.
            last_seq: The last ``seq``; ``None``: to the end.
            limit: The most to return.
            newest: Take the last ``limit`` lines of the range instead of the first.
            wanted: Only these lines.
        """
        ...

    async def text(self, kind: Kind[Any], name: str, first_seq: int) -> LogText | None:
        """Read many lines of output at once as text, from ``first_seq`` on; ``None`` if there are none.

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


class Look(Questions, Protocol):
    """A look into the store: some questions, and how much of the log their answers show."""

    @property
    def position(self) -> EventId:
        """Everything up to this event is in the answers; to be asked for after the first of them.

        What came later may be in them, too.
        """
        ...


class Store(Questions, Protocol):
    """The entities that are folded out of the log."""

    def look(self) -> Look:
        """Begin a look into the store, for an answer that tells its position."""
        ...

    async def checkpoint(self) -> EventId:
        """Return the id of the last folded event."""
        ...

    async def rollup_snapshot(self) -> RollupSnapshot:
        """Read the rollups, and the state from which an aggregator goes on."""
        ...

    async def before(self, wanted: Mapping[str, EventId]) -> Mapping[str, Before[Any]]:
        """Return the facts of finished measured entities before the event that ``wanted`` gives for each."""
        ...


class Vault(Protocol):
    """Keeps secrets, which never stand in an event."""

    async def secrets(self) -> Mapping[str, str]:
        """Return all secrets by name.

        Raises:
            Unavailable: They can't be read now.
        """
        ...

    async def keep(self, name: str, secret: str | None) -> None:
        """Keep a secret durably; ``None`` removes it.

        Raises:
            Unavailable: It can't be written now.
        """
        ...


@attrs.frozen
class ArtifactInfo:
    """The metadata of an artifact.

    Args:
        key: Its name within the run.
        size: The size in bytes.
        modified: The time at which it was written.
        etag: A tag that differs after each change.
    """

    key: str
    size: int
    modified: datetime
    etag: str


class Artifacts(Protocol):
    """The files that runs leave behind, by workflow, run and key. All three are names without slashes.

    Every method raises ``Unavailable`` when the storage of the files is away.
    """

    async def list(
        self, workflow_id: str, run_id: str, after: str | None = None, limit: int | None = None
    ) -> Sequence[ArtifactInfo]:
        """List a run's artifacts by key: at most ``limit`` of those after ``after``."""
        ...

    async def find(self, workflow_id: str, run_id: str, keys: Sequence[str]) -> Mapping[str, ArtifactInfo]:
        """Return the artifacts among ``keys`` that exist, by key; the run's other artifacts cost little."""
        ...

    async def read(
        self, workflow_id: str, run_id: str, key: str, first: int = 0, last: int | None = None
    ) -> tuple[ArtifactInfo, bytes]:
        """Read an artifact, or those of its bytes from ``first`` through ``last`` that it has.

        Raises:
            ArtifactNotFound: The run has no artifact of that key.
        """
        ...

    async def write(self, workflow_id: str, run_id: str, key: str, data: bytes) -> ArtifactInfo:
        """Write an artifact, whole or not at all, in place of an older one; return when it is durable."""
        ...

    async def delete(self, workflow_id: str, run_id: str, key: str) -> None:
        """Remove an artifact.

        Raises:
            ArtifactNotFound: The run has no artifact of that key.
        """
        ...

    async def delete_old(self, workflow_id: str, run_id: str, before: datetime) -> bool:
        """Remove all artifacts of a run, unless one was written at ``before`` or later.

        Returns:
            Whether any was removed.
        """
        ...

    async def runs(self, after: RunName | None, limit: int) -> Sequence[RunName]:
        """Return some of the runs that have artifacts, in an order of the storage's own.

        Args:
            after: The run after which to go on; ``None``: from the beginning.
            limit: The most to return; fewer may come, and none only at the end.
        """
        ...


class Turn(Protocol):
    """One node's side of a lease, for work that one node at a time does."""

    async def begin(self) -> bool:
        """Take the lease unless another node has it; tell whether this node holds it now.

        Raises:
            Unavailable: It can't be asked for.
        """
        ...

    async def hold(self) -> None:
        """Renew the lease when that is due; to be called at least once a second.

        Raises:
            Unavailable: The lease can't be renewed now.
            Deposed: The lease was lost.
        """
        ...

    async def end(self) -> None:
        """Release the lease; harmless when it is not held.

        Raises:
            Unavailable: The lease can't be released, and will expire.
        """
        ...


class Queue(Protocol):
    """Lists of texts that another program takes from."""

    async def push(self, name: str, data: bytes) -> None:
        """Put a text at the end of a list.

        Raises:
            Unavailable: The server is away; the text may be in the list all the same.
        """
        ...

    async def length(self, name: str) -> int:
        """Return the number of texts that wait in a list.

        Raises:
            Unavailable: The server is away.
        """
        ...


class Storage(Protocol):
    """One node's side of an open form of storage."""

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
        """Removes what retention does not keep."""
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
        """The log's position when it was opened; ``None`` if the log could not be reached."""
        ...

    @property
    def latencies(self) -> Mapping[str, float]:
        """The milliseconds that parts on other machines took to answer the last check."""
        ...

    @property
    def clocks(self) -> Mapping[str, float]:
        """By server: seconds by which this machine's clock is ahead of the server's, as last compared."""
        ...

    async def checks(self) -> dict[str, str | None]:
        """Return each part's problem, ``None`` if it has none."""
        ...

    def log_stats(self) -> LogStats | None:
        """Return the state of following the log, where it is on another server."""
        ...
