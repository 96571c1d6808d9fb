"""Sessions are what their tasks add up to, over both forms of storage, however the tasks are corrected."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.conformance.test_storage import event, kept, output, read_all, status
from tests.storages import Form, archived

from heliograph.model.event import Draft, Event
from heliograph.model.session import SESSION, Session, SessionFilter
from heliograph.model.task import STATUSES

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
ENDS = ("completed", "failed", "cancelled", "lost")


def history(chance: random.Random) -> Iterable[Draft]:
    """Draw events of a few tasks, which begin, end, are corrected and move between sessions, in any order."""
    for _ in range(80):
        task = f"t{chance.randrange(8)}"
        timestamp = (START + timedelta(seconds=chance.randrange(3600))).isoformat()
        match chance.randrange(4):
            case 0:
                session = chance.choice(["a", "b", "c/ü #1", "", None])
                yield event(
                    "task.created", payload={"task_id": task, "session_id": session}, timestamp=timestamp
                )
            case 1:
                yield output(task, "x", timestamp=timestamp)
            case 2:
                yield status(task, chance.choice(STATUSES), timestamp=timestamp)
            case _:
                result = {
                    "cost_usd": chance.randrange(10**6) / 10**6,
                    "input_tokens": chance.randrange(1000),
                    "output_tokens": chance.choice([None, chance.randrange(1000)]),
                }
                yield status(task, chance.choice(ENDS), result=result, timestamp=timestamp)


def recount(events: Iterable[Event]) -> dict[str, dict[str, Any]]:
    """Count the sessions the slow and simple way: from how each task ends, and when it was seen."""
    tasks: dict[str, dict[str, Any]] = {}
    seen: dict[str, list[datetime]] = defaultdict(list)
    for one in events:
        new: dict[str, Any] = {
            "status": "queued",
            "session": None,
            "moments": {"created": one.timestamp},
            "spent": [{}],
        }
        task = tasks.setdefault(one.channel, new)
        said = one.payload.get("status")
        if one.topic == "task.created" and one.payload["session_id"] is not None:
            task["session"] = one.payload["session_id"]
        under_way = said in {"running", "waiting_input"}
        if said == "lost" and "finished" in task["moments"]:
            said = None
        if task["status"] == "lost" and said not in {None, "queued"}:  # it is heard of again
            task["status"] = "running" if "started" in task["moments"] else "queued"
            del task["moments"]["finished"]
        ended = task["moments"].get("finished")
        if said == "running" and ended is not None and one.timestamp >= ended:  # another attempt
            task["status"] = "queued"
            task["spent"].append({})
            del task["moments"]["finished"]
        if (one.topic == "task.output" or under_way) and task["status"] == "queued":
            task["status"] = "running"
            task["moments"]["started"] = one.timestamp
        if said in ENDS or (under_way and task["status"] not in ENDS):
            task["status"] = said
        if said in ENDS:
            task["moments"].setdefault("finished", one.timestamp)
            result = one.payload.get("result") or {}
            task["spent"][-1].update({name: value for name, value in result.items() if value is not None})
        if task["session"]:
            seen[task["session"]] += task["moments"].values()
    sessions = {}
    for name, moments in seen.items():
        mine = [task for task in tasks.values() if task["session"] == name]
        spent = [attempt for task in mine for attempt in task["spent"]]
        sessions[name] = {
            "first_seen": min(moments),
            "last_seen": max(moments),
            "tasks": dict(Counter(task["status"] for task in mine)),
            "cost_nanos": sum(round(attempt.get("cost_usd", 0) * 10**9) for attempt in spent),
            "input_tokens": sum(attempt.get("input_tokens", 0) for attempt in spent),
            "output_tokens": sum(attempt.get("output_tokens", 0) for attempt in spent),
        }
    return sessions


def told(session: Session) -> dict[str, Any]:
    """Return what a session tells."""
    return {name: getattr(session, name) for name in Session.__match_args__ if name != "session_id"}


@pytest.mark.parametrize("seed", range(6))
async def test_sessions_equal_a_recount(form: Form, seed: int) -> None:
    """Whatever happens to tasks, in whatever batches, each session's counters equal a recount of the log."""
    chance = random.Random(seed)
    async with form.open() as storage:
        drafts = list(history(chance))
        while drafts:
            count = chance.choice([1, 3, 20])
            await kept(storage, drafts[:count])
            del drafts[:count]
            if chance.random() < 0.2:
                await archived(storage)
        await archived(storage)
        expected = recount(await read_all(storage))
        found, more = await storage.store.list(SESSION, SessionFilter(), None, 100)
        assert not more
        assert {session.session_id: told(session) for session in found} == expected
        assert expected


async def test_sessions_are_listed_newest_first_and_found(form: Form) -> None:
    """Pages go on where the one before ended; filters bound when it was last seen; one is read by id."""
    async with form.open() as storage:
        for n in range(5):
            moment = (START + timedelta(minutes=n)).isoformat()
            await kept(
                storage,
                [
                    event(
                        "task.created", payload={"task_id": f"t{n}", "session_id": f"s{n}"}, timestamp=moment
                    )
                ],
            )
        await archived(storage)
        store = storage.store
        first, more = await store.list(SESSION, SessionFilter(), None, 2)
        assert ([one.session_id for one in first], more) == (["s4", "s3"], True)
        rest, more = await store.list(SESSION, SessionFilter(), SESSION.position(first[-1]), 5)
        assert ([one.session_id for one in rest], more) == (["s2", "s1", "s0"], False)
        minutes = [START + timedelta(minutes=n) for n in (1, 3)]
        some, _ = await store.list(SESSION, SessionFilter(*minutes), None, 5)
        assert [one.session_id for one in some] == ["s2", "s1"]
        assert await store.get(SESSION, "s1") == some[1]
        assert await store.get(SESSION, "none") is None
