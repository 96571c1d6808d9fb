"""A kind of entity: what is folded out of events, declared once.

An entity is made by its first event, and then every event that names its key is applied to it, in the order
of the log. A kind says which events those are, what their payloads must be, and how its entities are listed.
The storage adds a table to it (``storage.sql.entities``); the fold, the questions and the intake know no kind
by name.

Entities can also be **fed** by entities of other kinds. What one task, as it stands, adds to its session is
its *share*. When an event changes a task, the fold takes the old share from the session and gives it the new
one, in the same transaction. So a session's counters are exact, whatever is corrected, and nothing is ever
scanned. A share says for itself whose it is, and so it moves when the task moves.
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
        """Fold one event, newer than all before; ``prices`` are for what the event does not say."""
        ...


V = TypeVar("V")


@attrs.frozen(eq=False)
class Kind(Generic[V]):
    """A kind of entity.

    Args:
        name: The word for one of them.
        value: The class of their state, an attrs class whose fields are the columns of its table. It has the
            methods of ``Folded`` if events are applied to it, and ``feed`` if shares are.
        key: The names of the fields that identify one.
        order: The names of the fields by which lists go, newest first; the last of them are the key.
        ascending: Whether lists go the other way, oldest first.
        family: The first part of the channels whose events are folded; ``None``: it is only fed.
        further: More such parts, of channels whose events concern it too.
        field: The field of a payload that names the rest of the channel; ``None``: the channel is the family.
        topics: The rules of the payloads of its topics; others on its channels are taken as they are.
        own: The topics that only the service itself may publish.
        lines: The topic whose events are lines of output, if any is.
        forms: The dashboard's forms of messages, and their topics.
        key_of: Returns the key of the entity that an event of the family touches, ``None`` if it is none.
        first_seen: Makes an entity at its first event, before that is applied.
        fed_by: The share of an entity of another kind in one of these, by that kind; ``None``: no share.
        fed: Makes an entity at its first share, before that is added.
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
        """Return the place of an entity in lists: a keyset cursor."""
        return tuple(getattr(value, name) for name in self.order)


@attrs.frozen
class Before(Generic[V]):
    """An entity as it was before some event, as far as the store knows.

    Args:
        value: The state, with the fields that decide its share; ``None`` when the store has none.
        through: Its events up to this id are in ``value``; those between it and the event in question have
            not been folded yet.
    """

    value: V | None
    through: EventId
