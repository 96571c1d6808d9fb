"""Conversations and messages are the fold of the log, over both forms of storage."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.conformance.test_storage import event, kept, read_all, status
from tests.storages import Form, Storage, archived

from heliograph.model.conversations.conversation import CONVERSATION, Conversation, ConversationFilter
from heliograph.model.conversations.message import MESSAGES, ConversationMessage, MessageFilter
from heliograph.model.event import Draft, Event

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
ENDS = ("completed", "failed", "cancelled")


def said(topic: str, conversation: str, at: int = 0, **payload: Any) -> Draft:
    """Make the draft of an event of a conversation."""
    return event(
        f"conversation.{topic}",
        channel=f"conversation:{conversation}",
        payload=payload,
        timestamp=(START + timedelta(seconds=at)).isoformat(),
    )


def history(chance: random.Random) -> Iterable[Draft]:
    """Draw what happens to a few conversations, their messages and their tasks, in any order."""
    for at in range(120):
        name, message = f"c{chance.randrange(3)}", f"m{chance.randrange(6)}"
        match chance.randrange(9):
            case 0:
                yield said("created", name, at, title=chance.choice(["a b", "c", None]), user_id="u")
            case 1:
                yield said("updated", name, at, title="renamed", is_archived=chance.random() < 0.5)
            case 2 if chance.random() < 0.3:
                yield said(chance.choice(["cleared", "deleted"]), name, at)
            case 3 | 4:
                yield said("message", name, at, message_id=message, role="user", content=f"text {at}")
            case 5 | 6:
                more = {flag: True for flag in ("done", "rewind") if chance.random() < 0.3}
                yield said("delta", name, at, message_id=message, content=f"piece {at}, ", **more)
            case 7:
                task = {"task_id": f"t{at % 5}", "conversation_id": chance.choice([name, None])}
                yield event(
                    "task.created", payload=task, timestamp=(START + timedelta(seconds=at)).isoformat()
                )
            case _:
                result = {"cost_usd": chance.randrange(10**6) / 10**6}
                moment = (START + timedelta(seconds=at)).isoformat()
                yield status(f"t{at % 5}", chance.choice(["running", *ENDS]), result=result, timestamp=moment)


def recount(events: Iterable[Event]) -> tuple[dict[str, dict[str, Any]], dict[str, list[tuple[str, str]]]]:
    """Count again, the slow and simple way; return the conversations, and what is to be read in each."""
    messages: dict[tuple[str, str], dict[str, Any]] = {}
    shown: dict[str, list[tuple[str, str]]] = defaultdict(list)
    own: dict[str, dict[str, Any]] = {}
    tasks: dict[str, dict[str, Any]] = {}
    for one in events:
        _, _, name = one.channel.partition(":")
        payload = one.payload
        if one.channel.startswith("task:"):
            task = tasks.setdefault(name, {"of": None, "cost": 0, "earlier": 0, "ended": False})
            task["of"] = payload.get("conversation_id") or task["of"]
            if payload.get("status") in ENDS:
                task["cost"] = task["earlier"] + round(payload["result"]["cost_usd"] * 10**9)
                task["ended"] = True
            elif payload.get("status") == "running" and task["ended"]:  # another attempt
                task.update(earlier=task["cost"], ended=False)
            continue
        if one.topic != "conversation.delta":
            mine = own.setdefault(name, {"title": None, "is_archived": False, "deleted": False})
        if one.topic in {"conversation.created", "conversation.updated"}:
            mine.update({k: payload[k] for k in ("title", "is_archived") if payload.get(k) is not None})
            mine["deleted"] = mine["deleted"] and one.topic == "conversation.updated"
        if one.topic in {"conversation.cleared", "conversation.deleted"}:
            shown[name] = []
            mine["deleted"] = mine["deleted"] or one.topic == "conversation.deleted"
        if "message_id" not in payload:
            continue
        message = messages.setdefault((name, payload["message_id"]), {"text": "", "whole": False})
        if one.topic == "conversation.message":
            message["text"] = payload["content"]
        elif not message["whole"]:
            message["text"] = ("" if payload.get("rewind") else message["text"]) + payload["content"]
        if not message["whole"] and (one.topic == "conversation.message" or payload.get("done")):
            message["whole"] = True
            shown[name].append((name, payload["message_id"]))
    for name, mine in own.items():
        belonging = [task for task in tasks.values() if task["of"] == name]
        mine["total_tasks"] = len(belonging)
        mine["total_cost_nanos"] = sum(task["cost"] for task in belonging)
        mine["message_count"] = len(shown[name])
    texts = {
        name: [(key[1], messages[key]["text"]) for key in keys] for name, keys in shown.items() if name in own
    }
    return own, texts


async def told(storage: Storage, conversation: Conversation) -> list[tuple[str, str | None]]:
    """Return the messages that are shown of a conversation, page by page."""
    wanted = MessageFilter(conversation.conversation_id, since=conversation.cleared_id)
    found: list[ConversationMessage] = []
    more = True
    while more:
        after = MESSAGES.position(found[-1]) if found else None
        page, more = await storage.store.list(MESSAGES, wanted, after, 3)
        found += page
    return [(message.message_id, message.content) for message in found]


@pytest.mark.parametrize("seed", range(6))
async def test_conversations_equal_a_recount(form: Form, seed: int) -> None:
    """Whatever is said in whatever batches, conversations, sums and messages equal a recount of the log."""
    chance = random.Random(seed)
    async with form.open() as storage:
        drafts = list(history(chance))
        while drafts:
            count = chance.choice([1, 4, 30])
            await kept(storage, drafts[:count])
            del drafts[:count]
            if chance.random() < 0.2:
                await archived(storage)
        await archived(storage)
        own, texts = recount(await read_all(storage))
        for name, expected in own.items():
            found = await storage.store.get(CONVERSATION, name)
            assert found is not None
            assert {field: getattr(found, field) for field in expected} == expected
            assert await told(storage, found) == texts.get(name, [])
        shown, _ = await storage.store.list(CONVERSATION, ConversationFilter(), None, 10)
        assert {one.conversation_id for one in shown} == {
            name for name, mine in own.items() if not mine["deleted"]
        }


async def test_conversations_are_found_by_the_words_of_their_titles(form: Form) -> None:
    """A search finds titles with all words, or longer ones, in letters of either case; a new title counts."""
    titles = ["Fix the login", "fixture of Ärger", "login page", "100% done", ""]
    async with form.open() as storage:
        await kept(storage, [said("created", f"c{n}", n, title=title) for n, title in enumerate(titles)])

        async def search(text: str) -> list[str]:
            await archived(storage)
            found, _ = await storage.store.list(CONVERSATION, ConversationFilter(text=text), None, 10)
            return [one.conversation_id for one in found]

        assert await search("FIX") == ["c1", "c0"]
        assert await search("log fix") == ["c0"]
        assert await search("ärg") == ["c1"]
        assert await search("100") == ["c3"]
        assert await search("ogin") == await search("%") == await search("") == []
        await kept(storage, [said("updated", "c2", 9, title="Logout"), said("deleted", "c0")])
        assert await search("login") == []
        assert await search("log") == ["c2"]
