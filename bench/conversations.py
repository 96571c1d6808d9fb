"""The cost of lists, searches and messages, with few conversations and with very many.

The store is filled behind the service's back with conversations of 100 messages, a hundred of them and then
very many; the same questions are asked of both. The factor between the two is what counts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import trio
from sqlalchemy import Connection, insert

from bench.peer import Peer
from bench.scenarios import OURS, Figures, Scale, Scenario
from heliograph.model.conversations.conversation import CONVERSATION, ConversationFilter, words
from heliograph.model.conversations.message import MESSAGES, MessageFilter
from heliograph.storage.embedded.form import Embedded, open_embedded
from heliograph.storage.sql.entities.conversation import conversation_words, conversations, messages

FEW, MANY = 100, 100_000
PER_CONVERSATION = 100
ROWS = 50_000
ASKED = 60
START = datetime(2026, 1, 1, tzinfo=UTC)
WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")


def _title(number: int) -> str:
    return f"Fix the {WORDS[number % 8]} of {WORDS[number // 8 % 8]} number{number:07}"


def _conversations(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {
            **dict.fromkeys(column.name for column in conversations.c),
            "conversation_id": f"c{number}",
            "created_at": START + timedelta(seconds=number),
            "updated_at": START + timedelta(seconds=number),
            "user_id": "u",
            "title": _title(number),
            "metadata": {},
            "message_count": PER_CONVERSATION,
            **dict.fromkeys(("total_cost_nanos", "total_tasks", "total_duration_ms", "cleared_id"), 0),
            "is_archived": False,
            "known": True,
            "deleted": False,
            "last_event_id": number + 1,
        }


def _messages(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        for place in range(PER_CONVERSATION):
            stored = place * count + number + 1
            yield {
                **dict.fromkeys(column.name for column in messages.c),
                "id": f"c{number}/m{place}",
                "conversation_id": f"c{number}",
                "message_id": f"m{place}",
                "created_at": START,
                "updated_at": START,
                "role": "user",
                "content": f"message {place} " * 8,
                **dict.fromkeys(("stored_id", "text_from", "last_event_id"), stored),
            }


def _fill(connection: Connection, count: int) -> None:
    found = (
        {"word": word, "conversation_id": f"c{number}"}
        for number in range(count)
        for word in words(_title(number))
    )
    for table, rows in (
        (conversations, _conversations(count)),
        (conversation_words, found),
        (messages, _messages(count)),
    ):
        while some := list(islice(rows, ROWS)):
            connection.execute(insert(table), some)


async def _time(ask: Callable[[], Awaitable[Any]]) -> float:
    """Return the median of some askings in milliseconds, after a few that warm up."""
    times = []
    for number in range(ASKED + 5):
        begun = perf_counter()
        await ask()
        if number >= 5:
            times.append((perf_counter() - begun) * 1000)
    return median(times)


async def _measure(storage: Embedded, count: int) -> dict[str, float]:
    store, middle = storage.store, f"c{count // 2}"

    def listed(**wanted: Any) -> Callable[[], Awaitable[Any]]:
        return lambda: store.list(CONVERSATION, ConversationFilter(archived=False, **wanted), None, 10)

    wanted = MessageFilter(middle)
    return {
        "list": await _time(listed()),
        "rare": await _time(listed(text=f"number{count // 2:07}")),
        "common": await _time(listed(text="fix alpha")),
        "messages": await _time(lambda: store.list(MESSAGES, wanted, None, 50)),
        "tail": await _time(lambda: store.list(MESSAGES, wanted, None, 50, sort="newest")),
    }


async def _both(most: int) -> Figures:
    found = []
    for count in (FEW, most):
        with tempfile.TemporaryDirectory(prefix="bench-conversations-") as folder:
            async with open_embedded(Path(folder), timedelta(days=1)) as storage:
                await storage.log.writer.write(_fill, count)
                found.append(await _measure(storage, count))
    few, many = found
    figures = {f"{name}_ms": value for name, value in many.items()}
    return {**figures, **{f"{name}_factor": many[name] / few[name] for name in many}}


def _questions(peer: Peer, scale: Scale) -> Figures:
    """Ask what a page asks."""
    return trio.run(_both, scale.count(MANY))


SCENARIOS = (
    Scenario("conversations", "100,000 conversations of 100 messages, against 100", _questions, (), OURS),
)
