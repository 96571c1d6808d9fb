"""The tables of conversations and of their messages.

A conversation is found by the words of its title, which have a table of their own. How to search depends on
how common a word is. If some word is rare, all conversations with that word are examined. If every word is
common, conversations are examined from the newest on, since enough matches are near. Either way the cost does
not grow with the number of conversations.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Index,
    Table,
    Text,
    and_,
    exists,
    false,
    func,
    literal,
    select,
    true,
)

from heliograph.model.channels import Selection
from heliograph.model.conversations.conversation import CONVERSATION, Conversation, words
from heliograph.model.conversations.message import DELTA, MAX_TEXT, MESSAGES, ConversationMessage, together
from heliograph.model.ids import EventId
from heliograph.storage.sql import queries
from heliograph.storage.sql.checkpoint import note_checkpoint
from heliograph.storage.sql.entity import Beside, Entity, Merging, Probed, Retired
from heliograph.storage.sql.schema import Big, Json, UtcMoment, metadata

RARE = 300
"""A word is rare if at most this many conversations have it."""

PIECES = 5000
MOST_PIECES = 100_000
"""The most pieces of a conversation that are read for the messages that end in one batch, as nobody else can
write meanwhile; what comes later is left out of their texts, as what is longer than ``MAX_TEXT`` is."""
"""The number of pieces of a growing text that are read at a time."""

messages = Table(
    "messages",
    metadata,
    Column("id", Text, primary_key=True),
    Column("conversation_id", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("created_at", UtcMoment, nullable=False),
    Column("updated_at", UtcMoment, nullable=False),
    Column("role", Text, nullable=False),
    Column("content", Text),
    Column("task_id", Text),
    Column("metadata", Json),
    Column("stored_id", Big, nullable=False),
    Column("text_from", Big, nullable=False),
    Column("last_event_id", Big, nullable=False),
    Index("messages_stored", "conversation_id", "stored_id", "id"),
)

conversations = Table(
    "conversations",
    metadata,
    Column("conversation_id", Text, primary_key=True),
    Column("created_at", UtcMoment, nullable=False),
    Column("updated_at", UtcMoment, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("title", Text),
    Column("flow_id", Text),
    Column("metadata", Json, nullable=False),
    Column("is_archived", Boolean, nullable=False),
    *(Column(name, Big, nullable=False) for name in ("message_count", "total_cost_nanos", "total_tasks")),
    Column("total_duration_ms", Big, nullable=False),
    Column("started_at", UtcMoment),
    Column("completed_at", UtcMoment),
    Column("cleared_id", Big, nullable=False),
    Column("known", Boolean, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("last_event_id", Big, nullable=False),
    Index("conversations_updated", "known", "deleted", "is_archived", "updated_at", "conversation_id"),
    Index("conversations_all", "known", "deleted", "updated_at", "conversation_id"),
    Index("conversations_user", "user_id", "known", "deleted", "updated_at", "conversation_id"),
    Index("conversations_flow", "flow_id", "known", "deleted", "updated_at", "conversation_id"),
)

Bytewise = Text().with_variant(Text(collation="C"), "postgresql")
"""Text that is sorted by its bytes, as in SQLite, so that a prefix is a range."""

conversation_words = Table(
    "conversation_words",
    metadata,
    Column("word", Bytewise, primary_key=True),
    Column("conversation_id", Text, primary_key=True),
    Index("conversation_words_conversation", "conversation_id", "word"),
)


def _words_of(conversation: Conversation) -> frozenset[tuple[str, str]]:
    if not conversation.shown:
        return frozenset()
    return frozenset((word, conversation.conversation_id) for word in words(conversation.title))


def _searched(connection: Connection, text: str) -> Probed:
    note_checkpoint(connection)
    condition = _has_words(connection, text)
    return Probed(None, lambda: condition)


def _has_words(connection: Connection, text: str) -> ColumnElement[bool]:
    """Return the condition that a title has, for every word of a text, a word that begins with it."""
    ranges = [_begins(word) for word in sorted(words(text))]
    if not ranges:
        return false()
    mine = conversation_words.c.conversation_id
    counts = [_count(connection, one) for one in ranges]
    there: list[ColumnElement[bool]] = [
        exists().where(mine == conversations.c.conversation_id, one) for one in ranges
    ]
    rarest = min(range(len(ranges)), key=counts.__getitem__)
    if counts[rarest] <= RARE:  # listed by name, or SQLite would scan all conversations all the same
        names = connection.scalars(select(mine).where(ranges[rarest])).all()
        if not names:
            return false()
        there[rarest] = conversations.c.conversation_id.in_([literal(name) for name in set(names)])
    return and_(*there)


def _begins(word: str) -> ColumnElement[bool]:
    column = conversation_words.c.word
    return and_(column >= word, column < word + "\U0010ffff")


def _count(connection: Connection, condition: ColumnElement[bool]) -> int:
    """Count the words that meet a condition, up to ``RARE + 1``."""
    some = select(conversation_words.c.word).where(condition).limit(RARE + 1).subquery()
    return connection.scalar(select(func.count()).select_from(some)) or 0


def _complete(connection: Connection, changed: Sequence[ConversationMessage]) -> None:
    """Give grown messages their whole texts, including pieces from before this batch."""
    ended: dict[str, list[ConversationMessage]] = {}
    for message in changed:
        if message.growing:
            message.content = None
        elif message.text_from < message.stored_id:
            ended.setdefault(message.conversation_id, []).append(message)
    for some in ended.values():
        for group in together(some):
            _fill(connection, group)


def _fill(connection: Connection, group: Sequence[ConversationMessage]) -> None:
    """Set the texts of messages whose pieces stand between each other, up to ``MOST_PIECES`` of them."""
    selection = Selection((f"conversation:{group[0].conversation_id}",), DELTA)
    after, before = EventId(group[0].text_from - 1), max(message.last_event_id for message in group) + 1
    messages = {message.message_id: message for message in group}
    texts: dict[str, list[str]] = {name: [] for name in messages}
    room = dict.fromkeys(messages, MAX_TEXT)
    left, more = MOST_PIECES, True
    while more and left:
        page, more = queries.read_events(connection, selection, min(PIECES, left), after=after, before=before)
        left -= len(page)
        for event in page:
            name, piece = event.payload["message_id"], event.payload["content"]
            message = messages.get(name)
            if message is None or room[name] <= 0:
                continue
            if message.text_from <= event.id <= message.last_event_id:
                texts[name].append(piece)
                room[name] -= len(piece)
        after = page[-1].id if page else after
    for message in group:
        message.content = "".join(texts[message.message_id])[:MAX_TEXT]


MESSAGES_KEPT = Entity(
    kind=MESSAGES,
    table=messages,
    filters={
        "since": lambda event_id: messages.c.stored_id > event_id,
        "roles": messages.c.role.in_,
        "growing": lambda growing: messages.c.stored_id == 0 if growing else messages.c.stored_id > 0,
    },
    sorts={"newest": messages.c.stored_id},
    large=("content", "metadata"),
    merging=(Merging(lambda message: message.growing, _complete),),
)

CONVERSATIONS = Entity(
    kind=CONVERSATION,
    table=conversations,
    filters={
        "archived": lambda archived: conversations.c.is_archived == archived,
        "since": lambda moment: conversations.c.updated_at >= moment,
        "until": lambda moment: conversations.c.updated_at < moment,
        "shown": lambda shown: and_(conversations.c.known == true(), conversations.c.deleted == false()),
    },
    probed={"text": _searched},
    beside=Beside(conversation_words, _words_of),
    retired=Retired(
        conversations.c.updated_at,
        lambda moment: conversations.c.is_archived == false(),
        along=(messages.c.conversation_id, conversation_words.c.conversation_id),
    ),
)
