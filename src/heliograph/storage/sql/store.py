"""The store over any SQL database: the questions of ``queries``, asked in worker threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection

from heliograph.model.channels import Selection
from heliograph.model.event import Event
from heliograph.model.ids import EventId
from heliograph.model.kind import Before, Kind, V
from heliograph.storage.protocols import ALL_LINES, Group, LineFilter, LogLine, LogText, RollupSnapshot
from heliograph.storage.sql import queries, rollups
from heliograph.storage.sql.checkpoint import read_checkpoint, with_checkpoint
from heliograph.storage.sql.database import Database
from heliograph.storage.sql.entities import ENTITY_OF
from heliograph.storage.sql.groups import list_groups
from heliograph.storage.sql.lines import read_lines, read_text

P = ParamSpec("P")
T = TypeVar("T")


class SqlStore:
    """Answers questions about entities and events; implements ``protocols.Store``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def _read(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._database.read(query, *args, **kwargs)

    async def list(
        self,
        kind: Kind[V],
        wanted: Any,
        after: Sequence[Any] | None,
        limit: int,
        sort: str | None = None,
        skip: int = 0,
    ) -> tuple[Sequence[V], bool]:
        """List entities in their order, or sorted; tell whether there are more."""
        entity = ENTITY_OF[kind]
        return await self._read(queries.list_entities, entity, wanted, after, limit, sort, skip)

    async def get(self, kind: Kind[V], *key: str) -> V | None:
        """Return one entity."""
        found: V | None = await self._read(queries.get_entity, ENTITY_OF[kind], key)
        return found

    async def count(self, kind: Kind[Any], field: str, wanted: Any = None) -> dict[Any, int]:
        """Count the entities by the values of a field."""
        return await self._read(queries.count_entities, ENTITY_OF[kind], field, wanted)

    async def groups(
        self,
        kind: Kind[Any],
        field: str,
        split: str,
        wanted: Any,
        after: tuple[int, str] | None,
        limit: int,
    ) -> tuple[Sequence[Group], bool]:
        """List the groups of the entities by a field; tell whether there are more."""
        return await self._read(list_groups, ENTITY_OF[kind], field, split, wanted, after, limit)

    async def newest(self, kind: Kind[V], field: str, values: Sequence[str]) -> Mapping[str, V]:
        """Return the newest entity of each value of a field."""
        return await self._read(queries.newest_entities, ENTITY_OF[kind], field, values)

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
        """Read lines of output in a range of ``seq``; tell whether it has more."""
        return await self._read(read_lines, kind, name, first_seq, last_seq, limit, newest, wanted)

    async def text(self, kind: Kind[Any], name: str, first_seq: int) -> LogText | None:
        """Read many lines of output at once as text; ``None`` if there are none."""
        return await self._read(read_text, kind, name, first_seq)

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
        """List events, newest first; tell whether there are more."""
        found, more = await self._read(
            queries.read_events,
            selection,
            limit + 1,
            after=after,
            before=before,
            newest=True,
            sender=sender,
            correlation_id=correlation_id,
        )
        return found[:limit], more

    def look(self) -> SqlLook:
        """Begin a look into the store, for an answer that tells its position."""
        return SqlLook(self._database)

    async def checkpoint(self) -> EventId:
        """Return the id of the last folded event."""
        return await self._database.read(read_checkpoint)

    async def rollup_snapshot(self) -> RollupSnapshot:
        """Read the rollups, and the state from which an aggregator goes on."""
        return await self._database.read_long(rollups.read_snapshot)

    async def before(self, wanted: Mapping[str, EventId]) -> Mapping[str, Before[Any]]:
        """Return the facts of finished measured entities before an event of theirs."""
        return await self._database.read(rollups.before, wanted)


class SqlLook(SqlStore):
    """A look into the store; its first question is answered with the checkpoint beside the answer.

    Implements ``protocols.Look``.
    """

    _position: EventId | None = None

    @property
    def position(self) -> EventId:
        """The checkpoint as of the first question, or what was named before it."""
        assert self._position is not None, "nothing has been asked yet"
        return self._position

    def at(self, position: EventId) -> Self:
        """Name the position, where it is known without asking."""
        self._position = position
        return self

    async def _read(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if self._position is not None:
            return await super()._read(query, *args, **kwargs)

        def asked(connection: Connection) -> tuple[T, EventId]:
            return with_checkpoint(connection, lambda: query(connection, *args, **kwargs))

        answer, self._position = await self._database.read(asked)
        return answer
