"""Entities of which nothing was heard for long go, when the settings say so; on both forms of storage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.conformance.test_conversations import said
from tests.conformance.test_storage import event, kept, output, status
from tests.storages import Form, archived

from heliograph.model.conversations.conversation import CONVERSATION
from heliograph.model.conversations.message import MESSAGES, MessageFilter
from heliograph.model.session import SESSION, SessionFilter
from heliograph.model.settings import RetentionSettings
from heliograph.model.task import TASK, TaskFilter

NOW = datetime(2026, 6, 1, tzinfo=UTC)
MONTH = RetentionSettings(entities_max_age_seconds=30 * 86400)


async def test_old_entities_go_and_others_stay(form: Form) -> None:
    """Ended tasks, sessions and conversations that are old go; what runs, is new or archived stays."""
    old, new = (NOW - timedelta(days=days) for days in (60, 1))
    async with form.open() as storage:
        for name, moment in (("ended", old), ("running", old), ("late", old), ("new", new)):
            at = moment.isoformat()
            payload = {"task_id": name, "session_id": f"of {name}"}
            await kept(storage, [event("task.created", payload=payload, timestamp=at)])
            await kept(storage, [output(name, "x", timestamp=at)])
        for name, moment in (("ended", old), ("late", new), ("new", new)):
            await kept(storage, [status(name, "completed", timestamp=moment.isoformat())])
        ages = int((datetime(2026, 1, 31, 12, tzinfo=UTC) - NOW).total_seconds())
        assert ages < -30 * 86400  # what ``said`` makes is old
        for name in ("c1", "c2"):
            await kept(storage, [said("created", name, title="Old news")])
            await kept(storage, [said("message", name, message_id="m", role="user", content="x")])
        await kept(storage, [said("updated", "c2", is_archived=True)])
        await archived(storage)
        assert await storage.sweep(RetentionSettings(), NOW) == 0
        assert await storage.sweep(MONTH, NOW) == 4  # a task, two sessions, a conversation
        tasks, _ = await storage.store.list(TASK, TaskFilter(), None, 10)
        assert {task.task_id for task in tasks} == {"running", "late", "new"}
        sessions, _ = await storage.store.list(SESSION, SessionFilter(), None, 10)
        assert {session.session_id for session in sessions} == {"of late", "of new"}
        assert await storage.store.get(CONVERSATION, "c1") is None
        assert await storage.store.get(CONVERSATION, "c2") is not None
        for name, number in (("c1", 0), ("c2", 1)):
            found, _ = await storage.store.list(MESSAGES, MessageFilter(name), None, 10)
            assert len(found) == number


async def test_a_task_that_was_removed_may_still_say_something(form: Form) -> None:
    """Output of a task whose row is gone makes a new row, and harms nobody."""
    at = (NOW - timedelta(days=60)).isoformat()
    async with form.open() as storage:
        await kept(storage, [output("t", "x", timestamp=at), status("t", "failed", timestamp=at)])
        await kept(storage, [output("t", "y", timestamp=at)])
        await archived(storage)
        assert await storage.sweep(MONTH, NOW) == 1
        await kept(storage, [output("t", "late")])
        await kept(storage, [output("t", "later")])
        await archived(storage)
        task = await storage.store.get(TASK, "t")
        assert task is not None
        assert (task.status, task.output_lines, task.last_seq) == ("running", 2, 5)
