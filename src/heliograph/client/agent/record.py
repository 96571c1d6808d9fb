"""The record of one task in this process: its output, its cost, and its end.

Programs hold handles (``Task`` and ``AsyncTask``), of which any number may share one record. The process that
begins a task also ends it. A record that only adds to a task, as in a child of ``heliograph exec`` or of a
fork, never ends it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from heliograph.client.agent import courier
from heliograph.client.agent.payload import clean, encode
from heliograph.client.exec import LineAssembler, Piece
from heliograph.model.channels import TOPIC_HELP, is_topic

Amount = float | str | Decimal

_current: ContextVar[TaskRecord | None] = ContextVar("heliograph_task", default=None)


class RunningCost:
    """The running cost of a task, step or run; dollars are added exactly."""

    def __init__(self) -> None:
        self._dollars = Decimal(0)
        self.totals: dict[str, Any] = {}

    def add(
        self, usd: Amount = 0, input_tokens: int = 0, output_tokens: int = 0, cached_tokens: int = 0
    ) -> dict[str, Any]:
        """Add to the cost; return the fields that were added, without zeros.

        Raises:
            ValueError: An argument is negative, or not a number.
        """
        try:
            dollars = Decimal(str(usd))
        except InvalidOperation:
            raise ValueError(f"{usd!r} is no amount of dollars") from None
        tokens = {
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "cached_tokens": cached_tokens,
        }
        added: dict[str, Any] = {name: int(count) for name, count in tokens.items() if count}
        if not dollars.is_finite() or dollars < 0 or any(count < 0 for count in added.values()):
            raise ValueError("a cost is a number, and never negative")
        for name, count in added.items():
            self.totals[name] = self.totals.get(name, 0) + count
        if dollars:
            self._dollars += dollars
            self.totals["cost_usd"] = float(self._dollars)
            added["cost_usd"] = float(dollars)
        return added


class TaskRecord:
    """One task.

    Args:
        task_id: The task's id.
        sender: The sender of its events.
        session: Its session, which tasks within it share.
        conversation: Its conversation, which tasks within it share.
    """

    def __init__(
        self,
        task_id: str,
        sender: str | None = None,
        session: str | None = None,
        conversation: str | None = None,
    ) -> None:
        self.task_id = task_id
        self.sender = sender
        self.session = session
        self.conversation = conversation
        self.result: dict[str, Any] = {}
        self.failure: str | None = None
        self._owner: int | None = None
        self._lock = threading.RLock()
        self._lines: dict[str, LineAssembler] = {}
        self._usage = RunningCost()
        self._dropped = 0
        self._said_at = time.monotonic()

    @property
    def begun(self) -> bool:
        """Whether this process has begun the task and not ended it."""
        return self._owner == os.getpid()

    def begin(self, description: Mapping[str, Any]) -> None:
        """Begin the task."""
        self._owner = os.getpid()
        sender = courier.courier()
        if sender is not None:
            sender.begin(self.task_id, self.beat)
            every = sender.settings.heartbeat_seconds
            description = {**description, "heartbeat_seconds": every or None}
        given = {name: value for name, value in description.items() if value is not None}
        self.say("task.created", given, essential=True)
        self.say("task.status", {"status": "running"}, essential=True)

    def end(self, status: str, error: str | None = None) -> None:
        """End the task, if this process has begun it."""
        if not self.begun:
            return
        self._owner = None
        for stream in list(self._lines):
            self._put_pieces(self._lines[stream].finish(), stream, {})
        sender = courier.courier()
        if sender is not None:
            sender.end(self.task_id)
        result = dict(self.result)
        if error is not None:
            result["error"] = error
        self.say("task.status", {"status": status, "result": result}, essential=True)

    def say(self, topic: str, payload: Mapping[str, Any], *, essential: bool = False) -> bool:
        """Publish an event of this task, as of now.

        Raises:
            ValueError: The service does not accept the topic.
        """
        return self._put([self._item(topic, payload)], essential=essential)

    def write(self, text: str, stream: str, extra: Mapping[str, Any] | None = None) -> None:
        """Publish each line of a text as output; a line without an end is marked ``partial``."""
        with self._lock:
            lines = self._lines.get(stream)
            if lines is None:
                if stream not in {"stdout", "stderr"}:
                    raise ValueError("stream must be stdout or stderr")
                lines = self._lines[stream] = LineAssembler()
            pieces = lines.feed(clean(text).encode())
            if lines.waiting:
                pieces += lines.flush()
            self._put_pieces(pieces, stream, extra or {})

    def cost(self, usd: Amount, input_tokens: int, output_tokens: int, cached_tokens: int) -> None:
        """Add to the task's cost so far."""
        with self._lock:
            added = self._usage.add(usd, input_tokens, output_tokens, cached_tokens)
            if added:
                self.say("task.cost", added)

    def beat(self) -> None:
        """Publish that the task is alive, if it was silent for long."""
        sender = courier.existing()
        if sender is not None and time.monotonic() - self._said_at >= sender.settings.heartbeat_seconds / 2:
            self.say("task.heartbeat", {})

    def _put_pieces(self, pieces: list[Piece], stream: str, extra: Mapping[str, Any]) -> None:
        items = []
        for piece in pieces:
            marks = {"partial": True} if piece.partial else {}
            marks |= {"rewind": True} if piece.rewind else {}
            for line in piece.text.split("\n"):
                payload = {"output": line, "stream": stream, **marks, **extra}
                items.append(self._item("task.output", payload))
        if not self._put(items):
            self._dropped += len(items)

    def _put(self, items: list[dict[str, Any]], *, essential: bool = False) -> bool:
        sender = courier.courier()
        if sender is None:
            return True
        self._said_at = time.monotonic()
        if self._dropped:
            notice = (
                f"[heliograph: {self._dropped:,} lines were dropped here, as too many waited for the service]"
            )
            items = [self._item("task.output", {"output": notice, "stream": "stderr"}), *items]
        kept = sender.put(items, essential=essential)
        if kept:
            self._dropped = 0
        return kept

    def _item(self, topic: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        if not is_topic(topic):
            raise ValueError(f"topic {topic!r} must be {TOPIC_HELP}")
        item = {
            "topic": topic,
            "channel": f"task:{self.task_id}",
            "payload": encode({"task_id": self.task_id, **payload}),
            "timestamp": datetime.now(UTC).isoformat(),
        }
        return item if self.sender is None else {**item, "sender": self.sender}


def publish_alone(
    topic: str, payload: Mapping[str, Any], channel: str | None = None, correlation_id: str | None = None
) -> None:
    """Publish an event that belongs to no task."""
    sender = courier.courier()
    if sender is None:
        return
    item = {"topic": topic, "payload": encode(payload), "timestamp": datetime.now(UTC).isoformat()}
    more = {"channel": channel, "correlation_id": correlation_id}
    sender.put([{**item, **{name: value for name, value in more.items() if value is not None}}])


def current() -> TaskRecord | None:
    """Return the record of the innermost task around the caller; ``None``: there is none."""
    return _current.get()


def enter(record: TaskRecord | None) -> TaskRecord | None:
    """Make a record the innermost one; return the one before."""
    before = _current.get()
    _current.set(record)
    return before


def _after_fork() -> None:
    record = _current.get()
    if record is not None:  # another thread of the parent may have held it
        record._lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
