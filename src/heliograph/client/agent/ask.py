"""Asking the watchers of a task, and waiting for the answer.

The question is an event ``task.question`` with an id of its own, and the task is ``waiting_input``. The
answer is an event ``task.input`` on the task's channel, whose ``content`` is the result of ``ask``; an event
that names another question is ignored. The channel is followed before the question is published, so no answer
can come too early.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from heliograph.client.agent import courier
from heliograph.client.agent.record import TaskRecord
from heliograph.client.following import Item
from heliograph.model.event import Event
from heliograph.model.task import ANSWER, QUESTION

FIELDS = ("content", "answer", "input", "text", "message")
"""The fields that may hold an answer; the first one that is present counts."""


class _Nothing:
    """No answer yet."""


NOTHING = _Nothing()


def ask(record: TaskRecord, question: str, choices: tuple[str, ...], timeout: float | None) -> Any:
    """Ask, in plain code."""
    from heliograph.client.streams import follow

    _check()
    deadline = None if timeout is None else time.monotonic() + timeout
    question_id = secrets.token_hex(4)
    with follow(f"task:{record.task_id}", topic=ANSWER, tail=0) as stream:
        while not stream.placed:
            stream.advance(deadline)
        _begin(record, question_id, question, choices)
        try:
            while True:
                for item in stream.take():
                    answer = read_answer(item, question_id)
                    if answer is not NOTHING:
                        return answer
                stream.advance(deadline)
        finally:
            _end(record)


async def ask_async(
    record: TaskRecord, question: str, choices: tuple[str, ...], timeout: float | None
) -> Any:
    """Ask, under asyncio or Trio."""
    import anyio

    from heliograph.client.streams import follow

    _check()
    question_id = secrets.token_hex(4)
    with anyio.fail_after(timeout):
        async with follow(f"task:{record.task_id}", topic=ANSWER, tail=0) as stream:
            while not stream.placed:
                await stream.advance_async()
            _begin(record, question_id, question, choices)
            try:
                async for item in stream:
                    answer = read_answer(item, question_id)
                    if answer is not NOTHING:
                        return answer
            finally:
                _end(record)
    raise AssertionError("a stream of answers never ends by itself")


def read_answer(item: Item, question_id: str) -> Any:
    """Return an item's answer to a question; ``NOTHING`` if it has none."""
    if not isinstance(item, Event) or item.topic != ANSWER:
        return NOTHING
    if item.payload.get("question_id") not in (None, question_id):
        return NOTHING
    return next((item.payload[field] for field in FIELDS if field in item.payload), None)


def _check() -> None:
    if not courier.settings().enabled:
        raise RuntimeError("nobody can be asked: heliograph is configured to publish nothing")


def _begin(record: TaskRecord, question_id: str, question: str, choices: tuple[str, ...]) -> None:
    said: dict[str, Any] = {"question_id": question_id, "question": question}
    record.say(QUESTION, {**said, "choices": list(choices)} if choices else said, essential=True)
    record.say("task.status", {"status": "waiting_input"}, essential=True)


def _end(record: TaskRecord) -> None:
    record.say("task.status", {"status": "running"}, essential=True)
