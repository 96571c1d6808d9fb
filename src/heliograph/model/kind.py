"""A kind of entity, which is folded out of events; each kind is declared once.

An entity is made by its first event, and then every event that names its key is applied to it, in the order
of the log. A kind declares which events those are, the rules of their payloads, and the order of lists. The
storage adds a table to it (``storage.sql.entities``); the fold, the questions and the intake know no kind by
name.

Entities can also be **fed** by entities of other kinds. The current contribution of a task to its session is
its *share*. When an event changes a task, the fold subtracts the old share from the session and adds the new
one, in the same transaction. So a session's counters are exact, whatever is corrected, and nothing is ever
scanned. A share names its owner, so it moves when the task moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import attrs

from heliograph.model.event import Event
from heliograph.model.ids import EventId
from heliograph.model.prices import Prices
from heliograph.model.rules import Rules

Key = tuple[str, ...]


class Share(Protocol):
    """The share of one entity in another; compared by value."""

    @property
    def owner(self) -> Key:
        """The key of the entity that it is added to."""
        ...


class Folded(Protocol):
    """The state of an entity."""

    def apply(self, event: Event, prices: Prices) -> None:
        """Fold one event, newer than all before; ``prices`` compute a cost that the event does not give."""
        ...


V = TypeVar("V")


@attrs.frozen(eq=False)
class Kind(Generic[V]):
    """A kind of entity.

    Args:
        name: The word for one entity.
        value: The class of the entities' state, an attrs class whose fields are the columns of the table. It
            has the methods of ``Folded`` if events are applied to it, and ``feed`` if shares are.
        key: The names of the fields that identify an entity.
        order: The names of the fields by which lists are sorted, newest first; the key comes last.
        ascending: Whether lists are sorted the other way, oldest first.
        family: The first part of the channels whose events are folded; ``None``: the entities are only fed.
        further: The families of further channels whose events also concern these entities.
        field: The field of a payload that names the rest of the channel; ``None``: the channel is the family.
        topics: The rules of the payloads by topic; payloads of other topics are not checked.
        own: The topics that only the service itself may publish.
        lines: The topic whose events are lines of output, if there is one.
        forms: The dashboard's forms of messages, and their topics.
        key_of: Returns the key of the entity that an event of the family touches; ``None`` if it touches
            none.
        first_seen: Makes an entity at its first event, which is applied afterwards.
        fed_by: By kind of the feeding entities: returns the share of one, ``None`` if it has none.
        fed: Makes an entity at its first share, which is added afterwards.
    """

    name: str
    value: type[V]
    key: tuple[str, ...]
    order: tuple[str, ...]
    ascending: bool = False
    family: str | None = None
    further: tuple[str, ...] = ()
    field: str | None = None
    topics: Mapping[str, Rules] = attrs.field(factory=dict)
    own: frozenset[str] = frozenset()
    lines: str | None = None
    forms: Mapping[str, str] = attrs.field(factory=dict)
    key_of: Callable[[Event], Key | None] = lambda event: (event.channel.partition(":")[2],)
    first_seen: Callable[[Event], V] | None = None
    fed_by: Mapping[Kind[Any], Callable[[Any], Share | None]] = attrs.field(factory=dict)
    fed: Callable[[Any], V] | None = None

    def channel_of(self, payload: Mapping[str, Any]) -> str:
        """Return the channel of an event with a payload that passed the rules."""
        return str(self.family) if self.field is None else f"{self.family}:{payload[self.field]}"

    def position(self, value: V) -> tuple[Any, ...]:
        """Return the position of an entity in lists, a keyset cursor."""
        return tuple(getattr(value, name) for name in self.order)


@attrs.frozen
class Before(Generic[V]):
    """An entity as it was before some event, as far as the store knows.

    Args:
        value: The state, with the fields that decide its share; ``None`` if the store has none.
        through: The last event that ``value`` includes; later ones before the event in question are not
            folded yet.
    """

    value: V | None
    through: EventId
