"""What a page asks for costs the same however much there is: SQLite's own steps are counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from heliograph.model.conversations.conversation import CONVERSATION, ConversationFilter, words
from heliograph.model.conversations.message import MESSAGES, MessageFilter
from heliograph.model.kind import Kind
from heliograph.storage.embedded.form import open_embedded
from heliograph.storage.sql import queries
from heliograph.storage.sql.entities import ENTITY_OF
from heliograph.storage.sql.entities.conversation import RARE, conversation_words, conversations, messages

START = datetime(2026, 1, 1, tzinfo=UTC)
FEW, MANY = RARE + 100, 6000
ASKED: dict[str, tuple[Kind[Any], Any, str | None]] = {
    "list": (CONVERSATION, ConversationFilter(archived=False), None),
    "with archived": (CONVERSATION, ConversationFilter(), None),
    "rare word": (CONVERSATION, ConversationFilter(archived=False, text="number00007"), None),
    "common words": (CONVERSATION, ConversationFilter(archived=False, text="fix the"), None),
    "no word": (CONVERSATION, ConversationFilter(archived=False, text="nothing"), None),
    "flow": (CONVERSATION, ConversationFilter(flow_id="f7"), None),
    "no flow": (CONVERSATION, ConversationFilter(flow_id="f"), None),
    "messages": (MESSAGES, MessageFilter("c7"), None),
    "last messages": (MESSAGES, MessageFilter("c7"), "newest"),
    "growing": (MESSAGES, MessageFilter("c7", growing=True), None),
}


def fill(connection: Connection, count: int) -> None:
    """Put conversations into the store, with a few messages each."""
    made, found, said = [], [], []
    for number in range(count):
        at = START + timedelta(seconds=number)
        title = f"Fix the number{number:05}"
        row = dict.fromkeys(column.name for column in conversations.c)
        zeros = dict.fromkeys(
            ("message_count", "total_cost_nanos", "total_tasks", "total_duration_ms", "cleared_id"), 0
        )
        own = {"conversation_id": f"c{number}", "created_at": at, "updated_at": at, "title": title}
        marks = {"is_archived": False, "known": True, "deleted": False, "metadata": {}, "user_id": "u"}
        made.append({**row, **zeros, **own, **marks, "flow_id": f"f{number}", "last_event_id": 1})
        found += [{"word": word, "conversation_id": f"c{number}"} for word in words(title)]
        for place in range(5):
            ids = dict.fromkeys(("stored_id", "text_from", "last_event_id"), place * count + number + 1)
            row = dict.fromkeys(column.name for column in messages.c)
            own = {"id": f"c{number}/{place}", "conversation_id": f"c{number}", "message_id": str(place)}
            said.append({**row, **own, **ids, "created_at": at, "updated_at": at, "role": "user"})
    for table, rows in ((conversations, made), (conversation_words, found), (messages, said)):
        connection.execute(insert(table), rows)


def steps(connection: Connection, name: str) -> int:
    """Return how many steps of its machine SQLite takes to answer, in tens."""
    kind, wanted, sort = ASKED[name]
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 1
        return 0

    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(count, 10)
    try:
        queries.list_entities(connection, ENTITY_OF[kind], wanted, None, 20, sort, 0)
    finally:
        driver.set_progress_handler(None, 0)
    return counted


@pytest.fixture
async def costs(tmp_path: Path) -> dict[int, dict[str, int]]:
    """Count what each question takes with few conversations and with many."""
    found = {}
    for count in (FEW, MANY):
        async with open_embedded(tmp_path / str(count), timedelta(days=1)) as storage:
            await storage.log.writer.write(fill, count)
            found[count] = {name: await storage.store._database.read(steps, name) for name in ASKED}
    return found


async def test_the_cost_of_conversations_does_not_follow_their_number(
    costs: dict[int, dict[str, int]],
) -> None:
    """Lists, searches and messages take as many steps among many conversations as among few."""
    for name in ASKED:
        few, many = (costs[count][name] for count in (FEW, MANY))
        assert many <= few * 1.5 + 2, (name, few, many)
