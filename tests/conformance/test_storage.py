"""What every form of storage promises; each test runs over SQLite and over Redis with PostgreSQL."""

from __future__ import annotations

import gc
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.polling import until
from tests.storages import Form, Storage, archived

from heliograph.model.channels import Selection
from heliograph.model.errors import Conflict
from heliograph.model.event import Draft, Event
from heliograph.model.ids import OLDEST, EventId, time_of
from heliograph.model.intake import parse_item
from heliograph.model.rules import DESCRIPTION_BYTES
from heliograph.model.settings import RetentionSettings
from heliograph.model.task import DESCRIPTIONS, MAX_COST_USD, MAX_TOKENS, SORTS, TASK, Task, TaskFilter
from heliograph.storage import recent
from heliograph.storage.protocols import WHOLE_LOG, LineFilter, LogText, PositionLost, Receipt
from heliograph.storage.sql.prepared import Prepared

EPOCH_PLUS_DAY = datetime(1970, 1, 2, tzinfo=UTC)


def output(task: str, text: str, **more: Any) -> Draft:
    """Make the draft of a line of output."""
    return parse_item({"type": "task_output", "task_id": task, "output": text, **more}, 1 << 20)


def status(task: str, value: str, **more: Any) -> Draft:
    """Make the draft of a status."""
    return parse_item({"type": "task_status", "task_id": task, "status": value, **more}, 1 << 20)


def event(topic: str, **more: Any) -> Draft:
    """Make the draft of any event."""
    return parse_item({"topic": topic, **more}, 1 << 20)


async def kept(storage: Storage, *requests: Sequence[Draft]) -> list[EventId]:
    """Append requests, every one of which must be kept; return the ids in order."""
    ids: list[EventId] = []
    for answer in await storage.log.append(requests):
        assert isinstance(answer, Receipt), answer
        ids += answer.ids
    return ids


async def read_all(
    storage: Storage, selection: Selection = WHOLE_LOG, after: EventId = OLDEST, limit: int = 1000
) -> list[Event]:
    """Read a selection page by page to its end."""
    events: list[Event] = []
    while True:
        page = await storage.log.read(selection, after, limit)
        events += page.events
        assert len(page.events) <= limit
        assert page.through >= after
        after = page.through
        if not page.more:
            return events


def outputs(events: Sequence[Event]) -> list[str]:
    """Return what the output events say."""
    return [event.payload["output"] for event in events]


async def test_append_gives_rising_ids_and_seq_without_holes(form: Form) -> None:
    """Ids rise over all channels, and seq counts 1, 2, 3 in each one."""
    async with form.open() as storage:
        ids = await kept(storage, *[[output(f"t{n % 3}", str(n)), event("x.y")] for n in range(30)])
        assert ids == sorted(set(ids))
        events = await read_all(storage)
        assert [event.id for event in events] == ids
        seqs: dict[str, list[int]] = {}
        for one in events:
            seqs.setdefault(one.channel, []).append(one.seq)
        assert seqs == {f"task:t{n}": list(range(1, 11)) for n in range(3)} | {
            "topic:x.y": list(range(1, 31))
        }


async def test_an_event_comes_back_as_it_was_published(form: Form) -> None:
    """Every field survives memory, the log and the store, down to the microsecond and odd characters."""
    payload = {"text": 'línea\r\n\u2028 \U0001f600 \\u0000 ,"payload":', "n": [1.5, -7, 2**53, None, True]}
    draft = event(
        "pipeline.completed",
        payload=payload,
        channel="workflow:w",
        sender='a ",\\"payload": b\t\n\r\\\\N',
        correlation_id="\\N",
        timestamp="2026-01-31T12:00:00.123456+02:00",
    )
    moment = datetime(2026, 1, 31, 10, 0, 0, 123456, tzinfo=UTC)
    async with form.open() as storage:
        [event_id] = await kept(storage, [draft])
        expected = Event(
            event_id, "workflow:w", 1, "pipeline.completed", moment, payload, draft.sender, "\\N", draft.body
        )
        assert await read_all(storage) == [expected]
        await archived(storage)
    async with form.open() as storage:
        assert await read_all(storage) == [expected]
        assert await storage.store.events(WHOLE_LOG, None, 10) == ([expected], False)


async def test_an_event_without_a_timestamp_has_that_of_its_id(form: Form) -> None:
    """Without a timestamp of the publisher, an event happened when it was appended."""
    async with form.open() as storage:
        [event_id] = await kept(storage, [output("t", "x")])
        assert (await read_all(storage))[0].timestamp == time_of(event_id)
        await archived(storage)
        assert (await storage.store.events(WHOLE_LOG, None, 1))[0][0].timestamp == time_of(event_id)


async def test_a_key_keeps_one_event(form: Form) -> None:
    """A retry with the same keys is answered with the same ids: in its group, later, after a restart."""
    request = [output("t", "a", key="k1"), output("t", "b", key="k2")]
    async with form.open() as storage:
        first = await kept(storage, request, request)
        assert first[:2] == first[2:]
        assert await kept(storage, request) == first[:2]
        await archived(storage)
    async with form.open() as storage:
        assert await kept(storage, request) == first[:2]
        assert await kept(storage, [*request, output("t", "c", key="k3")])
        assert outputs(await read_all(storage)) == ["a", "b", "c"]


async def test_a_key_reused_for_something_else_refuses_its_request_alone(form: Form) -> None:
    """A conflict keeps nothing of its request and all of the others in the group."""
    async with form.open() as storage:
        await kept(storage, [output("t", "a", key="k")])
        answers = await storage.log.append(
            [
                [output("t", "b")],
                [output("t", "no"), output("t", "other", key="k")],
                [output("t", "one", key="twice"), output("t", "two", key="twice")],
                [output("t", "c", key="k2")],
            ]
        )
        assert [type(answer) for answer in answers] == [Receipt, Conflict, Conflict, Receipt]
        assert "item 1: the key 'k'" in str(answers[1])
        assert "item 1: the key 'twice'" in str(answers[2])
        events = await read_all(storage)
        assert outputs(events) == ["a", "b", "c"]
        assert [one.seq for one in events] == [1, 2, 3]


async def test_a_key_is_forgotten_after_its_time(form: Form) -> None:
    """An expired key may be used again, and means a new event."""
    async with form.open(timedelta(milliseconds=20)) as storage:
        [first] = await kept(storage, [output("t", "a", key="k")])

        async def forgotten() -> bool:
            return (await kept(storage, [output("t", "a", key="k")]))[0] > first

        await until(forgotten)


async def test_tail_waits_and_gives_everything_in_order(form: Form) -> None:
    """A follower gets each event once and in order, whether it came before or while it waits."""
    async with form.open() as storage:
        followed: list[Event] = []

        async def follow(position: EventId) -> None:
            while len(followed) < 150:
                batch = await storage.log.tail(position)
                assert batch
                followed.extend(batch)
                position = batch[-1].id

        start = storage.log.position
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow, start)
                for n in range(50):
                    await kept(storage, [output("t", str(3 * n + k)) for k in range(3)])
        assert outputs(followed) == [str(n) for n in range(150)]


async def test_tail_from_far_behind_leads_to_the_head(form: Form) -> None:
    """A follower that begins at the oldest event after a restart is led through all to the newest."""
    async with form.open() as storage:
        await kept(
            storage,
            *[[output("t", str(n)) for n in range(start, start + 500)] for start in range(0, 6000, 500)],
        )
        await archived(storage)
    async with form.open() as storage:
        position, texts = OLDEST, list[str]()
        with trio.fail_after(20):
            while len(texts) < 6000:
                batch = await storage.log.tail(position)
                texts += outputs(batch)
                position = batch[-1].id
        assert texts == [str(n) for n in range(6000)]
        assert position == storage.log.position


async def test_a_cancelled_tail_loses_nothing(form: Form) -> None:
    """Giving up waiting and waiting again from the same position misses no event."""
    async with form.open() as storage:
        start = storage.log.position
        for n in range(5):
            with trio.move_on_after(0.001 * n):
                await storage.log.tail(start)
        await kept(storage, [output("t", "x")])
        with trio.fail_after(10):
            assert outputs(await storage.log.tail(start)) == ["x"]


SELECTIONS = [
    Selection.of([]),
    Selection.of(["task:a"]),
    Selection.of(["task:nobody"]),
    Selection.of(["task:*"]),
    Selection.of(["task:a", "workflow:*"]),
    Selection.of(["task:a", "task:b"], "task.status"),
    Selection.of(["*"], "task.*"),
    Selection.of(["webhooks", "topic:*"]),
]


@pytest.mark.parametrize("restart", [False, True])
async def test_every_selection_reads_its_own_in_pages(form: Form, restart: bool) -> None:
    """Pages of any size, forwards and from the end, give exactly the selection, also after a restart."""
    async with form.open() as storage:
        for n in range(40):
            await kept(
                storage,
                [
                    output("ab"[n % 2], str(n)),
                    status("c", "running"),
                    event("run.done", payload={"workflow_id": "w"}),
                    event("odd.one"),
                ],
            )
        everything = await read_all(storage)
        assert len(everything) == 160
        await archived(storage)
        if not restart:
            await check_selections(storage, everything)
    async with form.open() as storage:
        await check_selections(storage, everything)


async def check_selections(storage: Storage, everything: list[Event]) -> None:
    """Compare every way of reading with a filter over all events."""
    middle = everything[70].id
    for selection in SELECTIONS:
        wanted = [one for one in everything if selection.covers(one.channel, one.topic)]
        assert await read_all(storage, selection, limit=7) == wanted
        assert await read_all(storage, selection, after=middle) == [one for one in wanted if one.id > middle]
        for limit in (1, 9, 500):
            start = await storage.log.tail_start(selection, limit)
            assert await read_all(storage, selection, after=start) == wanted[-limit:]
        before = [one for one in wanted if one.id < middle]
        assert list((await storage.store.events(selection, middle, 10))[0]) == before[:-11:-1]
        late = [one for one in before if one.id > everything[60].id]
        found, _ = await storage.store.events(selection, middle, 500, after=everything[60].id)
        assert list(found) == late[::-1]


async def test_events_are_found_by_who_sent_them_and_why(form: Form) -> None:
    """A list of events may be of one sender, of one correlation id, or of both."""
    async with form.open() as storage:
        made = [
            event("a.b", sender=sender, correlation_id=why) for sender in "xy" for why in ("1", "2", None)
        ]
        ids = await kept(storage, made)
        await archived(storage)
        events = storage.store.events
        for selection in (WHOLE_LOG, Selection(("topic:a.b", "task:1"))):
            found = [
                await events(selection, None, 10, sender="x"),
                await events(selection, None, 10, correlation_id="2"),
                await events(selection, None, 10, sender="y", correlation_id="1"),
                await events(selection, None, 10, sender="z"),
            ]
            assert [[ids.index(one.id) for one in page] for page, _ in found] == [[2, 1, 0], [4, 1], [3], []]


async def test_nothing_is_kept_before_anything_was_published(form: Form) -> None:
    """An empty log answers every question with nothing."""
    async with form.open() as storage:
        assert storage.log.position == OLDEST
        assert await read_all(storage) == []
        assert await storage.log.tail_start(WHOLE_LOG, 10) == OLDEST
        bounds = await storage.log.bounds(WHOLE_LOG)
        assert (bounds.trimmed, bounds.head) == (OLDEST, OLDEST)
        assert await storage.store.list(TASK, TaskFilter(), None, 10) == ([], False)


async def test_a_restart_goes_on_from_where_it_was(form: Form) -> None:
    """After opening again the position, the numbers and the events are those of before, and go on."""
    async with form.open() as storage:
        ids = await kept(storage, [output("t", str(n)) for n in range(10)])
    async with form.open() as storage:
        assert storage.log.position == ids[-1]
        [later] = await kept(storage, [output("t", "10")])
        assert later > ids[-1]
        events = await read_all(storage)
        assert [one.seq for one in events] == list(range(1, 12))
        assert outputs(events) == [str(n) for n in range(11)]


async def test_the_newest_task_tells_of_its_agent(form: Form) -> None:
    """Of each agent the task that was created last counts; an agent without tasks is not there."""
    async with form.open() as storage:
        made = [("1", "a", "cli", 5), ("2", "a", "llm", 9), ("3", "a", "web", 7), ("4", "b", None, 1)]
        for task_id, agent, kind, minute in made:
            payload = {"task_id": task_id, "agent": agent} | ({"agent_type": kind} if kind else {})
            moment = f"2026-01-31T12:0{minute}:00Z"
            await kept(storage, [event("task.created", payload=payload, timestamp=moment)])
        await archived(storage)
        found = await storage.store.newest(TASK, "agent", ["a", "b", "c"])
        assert {name: newest.agent_type for name, newest in found.items()} == {"a": "llm", "b": None}
        task = await storage.store.get(TASK, "2")
        assert task is not None
        assert found["a"].updated_at == task.updated_at


async def test_words_find_the_same_tasks_everywhere(form: Form) -> None:
    """Several words, in any order, in any of a task's names or its error, are found in either case."""
    async with form.open() as storage:
        named = {"name": "Nightly BACKUP of Würfel", "agent": "keeper", "agent_type": "cron", "model": "m-7"}
        await kept(
            storage,
            [event("task.created", payload={"task_id": "t1", **named})],
            [status("t1", "failed", result={"error": "Disk 100% full: ÄRGER_1"})],
            [event("task.created", payload={"task_id": "t2", "name": "nightly archive"})],
        )
        await archived(storage)
        found = {}
        for text in (
            "nightly",
            "backup nightly",
            "archive backup",
            "cron m-7",
            "WÜRFEL ärger",
            "100% t1",
            "_",
        ):
            tasks, _ = await storage.store.list(TASK, TaskFilter(text=text), None, 10)
            found[text] = {task.task_id for task in tasks}
            counts = await storage.store.count(TASK, "status", TaskFilter(text=text))
            assert sum(counts.values()) == len(tasks)
        assert found == {
            "nightly": {"t1", "t2"},
            "backup nightly": {"t1"},
            "archive backup": set(),
            "cron m-7": {"t1"},
            "WÜRFEL ärger": {"t1"},
            "100% t1": {"t1"},
            "_": {"t1"},
        }


async def test_the_index_of_texts_follows_its_tasks(form: Form) -> None:
    """A part of any word finds what a task is called now, in its long error too; not what it was called."""
    async with form.open() as storage:
        long = "x" * 5000 + " Ursprünglich"
        await kept(
            storage,
            [
                event("task.created", payload={"task_id": f"t{n}", "name": f'Job "{n}" alpha'})
                for n in range(3)
            ],
            [event("task.created", payload={"task_id": "t1", "name": "ÜBERTRAGUNG beta"})],
            [status("t2", "failed", result={"error": long})],
        )
        await archived(storage)

        async def found(text: str) -> set[str]:
            tasks, more = await storage.store.list(TASK, TaskFilter(text=text), None, 10)
            assert not more
            return {task.task_id for task in tasks}

        assert await found("lph") == {"t0", "t2"}
        assert await found("bertrag ETA") == {"t1"}
        assert await found("übertragung") == {"t1"}
        assert await found("SPRÜNG") == {"t2"}
        assert await found('"0"') == {"t0"}
        assert await found("alpha t2 j") == {"t2"}
        assert await found("aleph") == set()


async def test_a_page_of_large_tasks_ends_early(form: Form) -> None:
    """Pages of what may be large end at about a megabyte, say that there are more, and join to the whole."""
    async with form.open() as storage:
        for n in range(7):
            said = {"task_id": f"t{n}", "input": "x" * 400_000}
            await kept(storage, [event("task.created", payload=said, timestamp=f"2026-01-31T12:0{n}:00Z")])
        await archived(storage)
        sizes, names, after, more = [], list[str](), None, True
        while more:
            page, more = await storage.store.list(TASK, TaskFilter(), after, 50)
            sizes.append(len(page))
            names += [task.task_id for task in page]
            after = TASK.position(page[-1])
        assert sizes == [3, 3, 1]
        assert names == [f"t{n}" for n in reversed(range(7))]
        page, more = await storage.store.list(TASK, TaskFilter(), None, 3)
        assert (len(page), more) == (3, True)


async def test_lines_are_read_as_text(form: Form) -> None:
    """Lines without marks are one text, each with its end; marked and very large ones are read as lines."""
    async with form.open() as storage:
        half = {"task_id": "m", "output": "half", "partial": True}
        await kept(storage, [output("t", text) for text in ("one", "two\n", 'thr"ee ü', "")])
        await kept(storage, [output("m", "loading"), event("task.output", payload=half)])
        await kept(storage, [output("l", "x" * 1_000_000) for _ in range(5)])
        await archived(storage)
        text = await storage.store.text(TASK, "t", 1)
        assert text == LogText('one\ntwo\nthr"ee ü\n\n'.encode(), 4)
        assert await storage.store.text(TASK, "t", 4) == LogText(b"\n", 4)
        assert await storage.store.text(TASK, "t", 5) is None
        assert await storage.store.text(TASK, "m", 1) == LogText(None, 2)
        assert await storage.store.text(TASK, "l", 1) == LogText(None, 5)


async def test_tasks_are_sorted_page_by_page(form: Form) -> None:
    """Sorted by change, duration or cost, pages join to the whole list, largest first, unknown last."""
    async with form.open() as storage:
        for n in range(12):
            moment = f"2026-01-31T12:{n:02}:00Z"
            ended = f"2026-01-31T13:{n * 7 % 12:02}:00Z"
            await kept(storage, [event("task.created", payload={"task_id": f"t{n}"}, timestamp=moment)])
            if n % 4:
                result = {"cost_usd": n * 5 % 12} if n % 3 else {}
                await kept(storage, [status(f"t{n}", "completed", result=result, timestamp=ended)])
        await archived(storage)
        tasks, _ = await storage.store.list(TASK, TaskFilter(), None, 100)
        for sort, value in SORTS.items():
            listed: list[Task] = []
            after, more = None, True
            while more:
                page, more = await storage.store.list(TASK, TaskFilter(), after, 5, sort)
                listed += page
                after = (value(page[-1]), page[-1].task_id)
            whole = sorted(tasks, key=lambda task: (value(task), task.task_id), reverse=True)
            assert [task.task_id for task in listed] == [task.task_id for task in whole]


async def test_tasks_without_a_field_are_listed(form: Form) -> None:
    """A field that a task has not, or has as an empty text, is lacking; of several fields all must be."""
    async with form.open() as storage:
        for name, fields in (("a", {"agent": "x"}), ("b", {"model": "m", "agent": ""}), ("c", {})):
            await kept(storage, [event("task.created", payload={"task_id": name, **fields})])
        await archived(storage)
        for lacking, found in ((("agent",), "cb"), (("model",), "ca"), (("agent", "model"), "c")):
            tasks, _ = await storage.store.list(TASK, TaskFilter(without=lacking), None, 10)
            assert "".join(task.task_id for task in tasks) == found


async def test_lines_are_searched(form: Form) -> None:
    """Text is found in what was written alone, with ASCII letters in either case; a stream narrows it."""
    async with form.open() as storage:
        lines = ['say "Error"', "100% done", "output", "nothing", "\x1b[31merror\x1b[0m"]
        await kept(storage, [output("t", line) for line in lines[:-1]])
        await kept(storage, [output("t", lines[-1], stream="stderr"), output("t", "one ERROR more")])
        await archived(storage)

        async def found(text: str | None, stream: str | None = None, **more: Any) -> list[int]:
            wanted = LineFilter(text, stream)
            page, _ = await storage.store.lines(TASK, "t", 1, None, 10, wanted=wanted, **more)
            return [line.seq for line in page]

        assert await found("error") == [1, 5, 6]
        assert await found('"error"') == [1]
        assert await found("0%") == [2]
        assert await found("output") == [3]
        assert await found("task_id") == []
        assert await found(None, "stderr") == [5]
        assert await found("error", "stdout", newest=True) == [1, 6]


async def test_tasks_are_the_fold_of_the_log(form: Form) -> None:
    """The table of tasks equals a recount of the log, and so do the counts by status and the lines."""
    async with form.open() as storage:
        for n in range(20):
            await kept(
                storage,
                [
                    event(
                        "task.created", payload={"task_id": f"t{n}", "agent": f"a{n % 3}", "input": {"n": n}}
                    )
                ],
                [output(f"t{n}", f"line {k}", stream="stderr") for k in range(n)],
                [
                    status(
                        f"t{n}", ["running", "completed", "failed"][n % 3], result={"cost_usd": 0.05, "n": n}
                    )
                ],
            )
        await archived(storage)
        folded: dict[str, Task] = {}
        for one in await read_all(storage):
            folded.setdefault(one.channel, Task.first_seen(one)).apply(one)
        tasks, _ = await storage.store.list(TASK, TaskFilter(), None, 100)
        assert {task.task_id: task for task in tasks} == {task.task_id: task for task in folded.values()}
        counts = await storage.store.count(TASK, "status")
        assert counts == Counter(task.status for task in folded.values())
        lines, more = await storage.store.lines(TASK, "t19", 1, None, 5, newest=True)
        assert more
        assert [line.output for line in lines] == [f"line {k}" for k in range(14, 19)]
        assert {line.stream for line in lines} == {"stderr"}


async def test_what_a_batch_does_not_set_stays(form: Form) -> None:
    """Whatever of its tasks a later batch sets, together or alone, the rest of their rows is as it was."""
    whole = {"input": {"a": [1]}, "metadata": {"b": "é"}}
    failed = {"error": "  \n" + "long " * 100, "n": 1}
    names = [f"t{n}" for n in range(9)]
    batches = [
        [event("task.created", payload={"task_id": name, **whole}) for name in names],
        [status(name, "failed", result=failed) for name in names[1:]],
        [
            output("t0", "x"),
            output("t1", "late"),
            event("task.created", payload={"task_id": "t2", "input": 0}),
            event("task.created", payload={"task_id": "t3", "metadata": {}}),
            status("t4", "cancelled"),
            status("t5", "completed", result={}),
            status("t6", "failed", result={"error": "other"}),
            event("task.created", payload={"task_id": "t6", **whole, "input": "new"}),
            event("task.created", payload={"task_id": "t7", "source": "cli"}),
            event("task.created", payload={"task_id": "t7", "flow_id": "f"}),
            event("task.created", payload={"task_id": "t8", "source": "cli"}),
            event("task.created", payload={"task_id": "t8", "metadata": {"c": 1}}),
            event("task.created", payload={"task_id": "t8", "flow_id": "f"}),
        ],
    ]
    async with form.open() as storage:
        for batch in batches:
            await kept(storage, batch)
            await archived(storage)
        folded: dict[str, Task] = {}
        for one in await read_all(storage):
            folded.setdefault(one.channel, Task.first_seen(one)).apply(one)
        tasks, _ = await storage.store.list(TASK, TaskFilter(), None, 100)
        assert {task.task_id: task for task in tasks} == {task.task_id: task for task in folded.values()}
        assert [folded["task:t5"].error, folded["task:t6"].error] == [failed["error"], "other"]
        assert folded["task:t7"].metadata == {"b": "é", "source": "cli", "flow_id": "f"}
        assert folded["task:t8"].metadata == {"c": 1, "flow_id": "f"}


async def test_a_correction_keeps_what_it_leaves_out(form: Form) -> None:
    """An end that is said again merges its result into the one that is stored, large as that may be."""
    long = "x" * 100_000
    async with form.open() as storage:
        await kept(
            storage, [status("t", "completed", result={"stdout": long, "cost_usd": 0.5, "error": "odd"})]
        )
        await archived(storage)
        first = await storage.store.get(TASK, "t")
        await kept(
            storage,
            [status("t", "failed", result={"output_tokens": 7, "cost_usd": None}), status("u", "failed")],
            [status("t", "failed", result={"error": "boom"}), status("u", "failed", result={"a": None})],
        )
        await archived(storage)
        second, other = await storage.store.get(TASK, "t"), await storage.store.get(TASK, "u")
    assert first is not None
    assert second is not None
    assert other is not None
    assert second.result == {"stdout": long, "cost_usd": 0.5, "error": "boom", "output_tokens": 7}
    assert (second.status, second.error, second.cost_nanos) == ("failed", "boom", 500_000_000)
    assert second.finished_at == first.finished_at
    assert other.result == {"a": None}


async def test_the_largest_values_that_are_taken_are_kept(form: Form) -> None:
    """No value that a publisher may send is too large for an index, compressible or not, in any alphabet."""
    chance = random.Random(7)

    def text(size: int) -> str:
        return "".join(chr(chance.randint(0x10000, 0x3FFFF)) for _ in range(size // 4))

    def ascii_text(size: int) -> str:
        return "".join(
            chance.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=size)
        )

    envelope = {"sender": text(800), "correlation_id": text(800), "key": text(800)}
    dates = {"timestamp": "1970-01-01T00:00:00Z"}, {"timestamp": "9998-12-31T23:59:59.999999Z"}
    result = {
        "cost_usd": MAX_COST_USD,
        "input_tokens": MAX_TOKENS,
        "output_tokens": MAX_TOKENS,
        "cached_tokens": MAX_TOKENS,
        "error": text(100_000),
        "model": text(100_000),
    }
    task = ascii_text(128)
    names = {name: text(DESCRIPTION_BYTES) for name in DESCRIPTIONS}
    topics = [".".join(ascii_text(64) for _ in range(8)) for _ in range(2)]
    async with form.open() as storage:
        ids = await kept(
            storage,
            [event("task.created", payload={"task_id": task, **names}, **envelope, **dates[0])],
            [output(task, text(100_000), **dates[0])],
            [status(task, "failed", result=result, **dates[1])],
            [event("task.created", payload={"task_id": f"{task[:-1]}=", **names})],
            [status(f"{task[:-1]}=", "failed", result=result)],
            [event(topics[0], channel=f"topic:{topics[1]}", payload={})],
            [event(topics[0], payload={"workflow_id": ascii_text(128)})],
        )
        await archived(storage)
        found, _ = await storage.store.events(WHOLE_LOG, None, 500)
        assert [one.id for one in found] == ids[::-1]
        [first], _ = await storage.store.list(
            TASK, TaskFilter(agent=names["agent"], until=EPOCH_PLUS_DAY), None, 10
        )
        assert {name: getattr(first, name) for name in DESCRIPTIONS} == names
        snapshot = await storage.store.rollup_snapshot()
        assert not snapshot.unfinished


async def test_retention_by_number_tells_what_is_gone(form: Form) -> None:
    """Only the newest events stay, and each channel says up to where it lost some."""
    async with form.open() as storage:
        old = await kept(storage, [output("old", str(n)) for n in range(30)])
        new = await kept(storage, [output("new", str(n)) for n in range(2500)])
        await archived(storage)
        assert await storage.sweep(RetentionSettings(max_events=2510), datetime.now(UTC)) == 20
        assert await storage.sweep(RetentionSettings(max_events=2510), datetime.now(UTC)) == 0
        assert await trimmed(storage, "task:old") == old[19]
        assert await trimmed(storage, "task:new") == OLDEST
        assert await trimmed(storage, "*") == old[19]
        assert await storage.sweep(RetentionSettings(max_events=100), datetime.now(UTC)) == 2410
        assert await trimmed(storage, "task:old") == old[-1]
        assert await trimmed(storage, "task:new") == new[-101]
        assert (await storage.log.bounds(WHOLE_LOG)).head == new[-1]
        assert [one.id for one in await read_all(storage)] == new[-100:]
    async with form.open() as storage:
        assert await trimmed(storage, "task:old", "task:new") == new[-101]
        stored, _ = await storage.store.events(WHOLE_LOG, None, 500)
        assert [one.id for one in stored] == new[:-101:-1]
        assert outputs(await read_all(storage, after=new[-101])) == [str(n) for n in range(2400, 2500)]
        [task], _ = await storage.store.list(TASK, TaskFilter(text="old"), None, 10)
        assert task.output_lines == 30
        [later] = await kept(storage, [output("old", "again")])
        assert [one.seq for one in await read_all(storage, after=EventId(later - 1))] == [31]


async def test_retention_by_age_goes_by_the_time_of_appending(form: Form) -> None:
    """Events older than the age are removed, whatever their publisher's timestamp says."""
    async with form.open() as storage:
        ids = await kept(storage, [output("t", "x", timestamp="2001-01-01T00:00:00Z") for _ in range(10)])
        await archived(storage)
        policy = RetentionSettings(max_age_seconds=60)
        assert await storage.sweep(policy, time_of(ids[-1]) + timedelta(seconds=59)) == 0
        assert await storage.sweep(policy, time_of(ids[-1]) + timedelta(seconds=61)) == 10
        assert await trimmed(storage, "task:t") == ids[-1]


async def test_a_page_tells_what_retention_took(form: Form) -> None:
    """A reading says up to where events behind its position are missing, and says nothing if none are."""
    async with form.open() as storage:
        old = await kept(storage, [output("old", str(n)) for n in range(30)])
        new = await kept(storage, [output("new", str(n)) for n in range(200)])
        await archived(storage)
        assert await storage.sweep(RetentionSettings(max_events=100), datetime.now(UTC)) == 130
    async with form.open() as storage:
        for selector, after, missing in [
            ("task:old", old[3], old[-1]),
            ("task:old", old[-1], OLDEST),
            ("task:new", OLDEST, new[-101]),
            ("task:new", new[-102], new[-101]),
            ("task:new", new[-101], OLDEST),
            ("task:*", old[3], new[-101]),
            ("*", old[3], new[-101]),
            ("*", new[-50], OLDEST),
            ("task:none", old[3], OLDEST),
        ]:
            for limit in (10, 1000):
                page = await storage.log.read(Selection.of([selector]), after, limit)
                assert (selector, after, page.trimmed) == (selector, after, missing)
        await storage.sweep(RetentionSettings(max_age_seconds=1), time_of(new[-1]) + timedelta(minutes=1))
        page = await storage.log.read(WHOLE_LOG, new[-50], 10)
        assert (page.events, page.trimmed, page.more) == ([], new[-1], False)


@pytest.mark.parametrize("left", [5, 0])
async def test_a_follower_is_told_what_retention_took(
    form: Form, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """Who follows so late that events were removed, some or all, hears so, and goes on from there."""
    monkeypatch.setattr(recent, "EVENTS", 10)
    async with form.open() as storage:
        ids = await kept(storage, [output("t", str(n)) for n in range(50)])
        position = OLDEST
        while position < ids[-1]:
            position = (await storage.log.tail(position))[-1].id
        await archived(storage)
        await storage.sweep(RetentionSettings(max_events=left or 1), datetime.now(UTC))
        if not left:
            await storage.sweep(RetentionSettings(max_age_seconds=1), time_of(ids[-1]) + timedelta(minutes=1))
        with pytest.raises(PositionLost) as lost:
            await storage.log.tail(ids[0])
        assert ids[-left - 1] <= lost.value.head <= ids[-1]
        [later] = await kept(storage, [output("t", "later")])
        heard = [one.id for one in await storage.log.tail(lost.value.head)]
        assert heard == [one for one in [*ids, later] if one > lost.value.head]


async def trimmed(storage: Storage, *selectors: str) -> EventId:
    """Return up to where a selection lost events."""
    return (await storage.log.bounds(Selection.of(selectors))).trimmed


async def test_large_events_come_in_smaller_pages(form: Form) -> None:
    """Reading many large events gives them all, in pages that are bounded by bytes."""
    async with form.open() as storage:
        texts = [f"{n:04}" + "x" * 400_000 for n in range(30)]
        for start in range(0, 30, 10):
            await kept(storage, [output("t", text) for text in texts[start : start + 10]])
        await archived(storage)
    async with form.open() as storage:
        page = await storage.log.read(WHOLE_LOG, OLDEST, 1000)
        assert 1 <= len(page.events) < 30
        assert page.more
        assert outputs(await read_all(storage)) == texts


async def test_many_appenders_at_once_share_the_order(form: Form) -> None:
    """Concurrent appends are each kept whole, next to each other, and numbered without holes."""
    async with form.open() as storage:

        async def publish(name: int) -> None:
            for n in range(10):
                await kept(storage, [output("t", f"{name}/{n}/{k}") for k in range(5)])

        async with trio.open_nursery() as nursery:
            for name in range(8):
                nursery.start_soon(publish, name)
        events = await read_all(storage)
        assert [one.seq for one in events] == list(range(1, 401))
        runs = [outputs(events)[start : start + 5] for start in range(0, 400, 5)]
        assert all(run == [run[0][:-1] + str(k) for k in range(5)] for run in runs)


KEYS = st.one_of(st.none(), st.sampled_from(["k1", "k2", "k3"]))
DRAFTS = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["x", "y"]), KEYS)
GROUPS = st.lists(st.lists(st.lists(DRAFTS, min_size=1, max_size=4), min_size=1, max_size=4), max_size=5)


@given(groups=GROUPS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mixture_of_requests_is_kept_as_the_model_says(form: Form, groups: Any) -> None:
    """Random groups with keys, retries and conflicts are answered and kept as a plain model does it."""
    trio.run(partial(compare_with_model, form, groups))


async def compare_with_model(form: Form, groups: list[list[list[tuple[str, str, str | None]]]]) -> None:
    """Append groups to the storage and to a model; the data outlives the example, hence the prefix."""
    async with form.open() as storage:
        start = storage.log.position
        example = f"e{start}-"
        known: dict[str, tuple[int, tuple[str, str]]] = {}
        expected: list[tuple[str, str]] = []
        for group in groups:
            requests = [
                [output(example + task, text, key=key and example + key) for task, text, key in request]
                for request in group
            ]
            answers = await storage.log.append(requests)
            numbers = {one.id: n for n, one in enumerate(await read_all(storage, after=start))}
            for request, answer in zip(group, answers, strict=True):
                within = {key: content for key, (_, content) in known.items()}
                if any(key and within.setdefault(key, (t, x)) != (t, x) for t, x, key in request):
                    assert isinstance(answer, Conflict)
                    continue
                places = []
                for task, text, key in request:
                    if key in known:
                        places.append(known[key][0])
                        continue
                    places.append(len(expected))
                    if key:
                        known[key] = (len(expected), (task, text))
                    expected.append((task, text))
                assert isinstance(answer, Receipt)
                assert [numbers[one] for one in answer.ids] == places
        events = await read_all(storage, after=start)
        assert [
            (one.payload["task_id"].removeprefix(example), one.payload["output"]) for one in events
        ] == expected
        for name in "ab":
            seqs = [one.seq for one in events if one.channel == f"task:{example}{name}"]
            assert seqs == list(range(1, len(seqs) + 1))


async def test_pages_of_any_size_keep_few_statements(form: Form) -> None:
    """What is compiled for questions is kept by their shape: their sizes add nothing."""

    def kept() -> int:
        gc.collect()
        return sum(type(one) is Prepared for one in gc.get_objects())

    async with form.open() as storage:

        async def ask(limits: Iterable[int]) -> None:
            for limit in limits:
                await storage.store.list(TASK, TaskFilter(statuses=("running",)), None, limit)
                await storage.store.lines(TASK, "t", 1, None, limit)
                await storage.store.events(Selection(("task:t",)), None, limit)

        await ask((20, 50, 100, 500, 7))
        before = kept()
        await ask(range(1, 120))
        assert kept() == before
