import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine
from tests.storage.conftest import KEY_TTL, Embedded
from tests.strategies import draft, output, status

from heliograph.model.channels import EVERYTHING, Selection
from heliograph.model.errors import Conflict, SettingsError, Unavailable
from heliograph.model.event import Draft, Event
from heliograph.model.ids import OLDEST, EventId, from_microseconds, make_id, to_microseconds
from heliograph.model.settings import RetentionSettings
from heliograph.model.task import STATUSES, TASK, Task, TaskFilter
from heliograph.storage.embedded.sqlite import READERS, migrate_sqlite, open_sqlite
from heliograph.storage.protocols import Receipt
from heliograph.storage.sql import migrate
from heliograph.storage.sql.pages import PAGE_BYTES
from heliograph.storage.sql.queries import read_events
from heliograph.storage.sql.store import SqlStore

ALL = Selection((EVERYTHING,))
START = datetime(2026, 1, 31, 12, tzinfo=UTC)


async def append(embedded: Embedded, *drafts: Draft) -> Receipt:
    """Append one request; raise what refuses it."""
    (answer,) = await embedded.log.append([drafts])
    if not isinstance(answer, Receipt):
        raise answer
    return answer


def raw(folder: Path, question: str) -> list[Any]:
    """Ask the database file directly, as another program would."""
    with closing(sqlite3.connect(folder / "heliograph.db")) as connection:
        return connection.execute(question).fetchall()


def created(task: str, at: datetime, **fields: Any) -> Draft:
    """Make the draft that creates a task at a moment."""
    return draft("task.created", {"task_id": task, **fields}, timestamp=at.isoformat())


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.milliseconds = 1_700_000_000_000

    def time_ns(self) -> int:
        """Tell the time as ``time.time_ns`` does."""
        return self.milliseconds * 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Set the clock that the log reads."""
    made = Clock()
    monkeypatch.setattr("heliograph.storage.embedded.sqlite.time", made)
    return made


# What a receipt means


async def test_a_receipt_means_committed(embedded: Embedded) -> None:
    """When an append is answered, any other program already finds the events, the task and the checkpoint."""
    receipt = await append(embedded, output("1", "a"), output("1", "b", key="k"))
    folder = embedded.folder
    assert raw(folder, "SELECT id, seq FROM events ORDER BY id") == [(receipt.ids[0], 1), (receipt.ids[1], 2)]
    assert raw(folder, "SELECT task_id, output_lines, last_event_id FROM tasks") == [("1", 2, receipt.cursor)]
    assert raw(folder, "SELECT event_id FROM checkpoints WHERE name = 'fold'") == [(receipt.cursor,)]
    assert raw(folder, "SELECT head_seq FROM channels") == [(2,)]


async def test_a_commit_is_on_the_disk(embedded: Embedded) -> None:
    """Every connection writes ahead and waits for the disk at each commit."""
    with embedded.database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


async def test_what_was_kept_is_there_after_a_restart(tmp_path: Path) -> None:
    """Position, numbers per channel, keys and tasks go on where the last process left them."""
    async with open_sqlite(tmp_path, KEY_TTL) as (log, _):
        (first,) = await log.append([[output("1", "a", "k"), status("1", "completed")]])
        assert isinstance(first, Receipt)
    async with open_sqlite(tmp_path, KEY_TTL) as (log, database):
        assert log.position == first.cursor
        (again,) = await log.append([[output("1", "a", "k"), output("1", "b")]])
        assert isinstance(again, Receipt)
        assert again.ids[0] == first.ids[0]
        assert again.ids[1] > first.cursor
        events = (await log.read(ALL, OLDEST, 10)).events
        assert [event.seq for event in events] == [1, 2, 3]
        assert list(await log.tail(first.cursor)) == [events[2]]
        assert list(await log.tail(OLDEST)) == list(events)
        task = await SqlStore(database).get(TASK, "1")
        assert task is not None
        assert (task.status, task.output_lines, task.last_seq) == ("completed", 2, 3)


async def test_a_full_disk_refuses_and_keeps_nothing(embedded: Embedded) -> None:
    """When the database can't grow, the group is refused as unavailable, whole, and later ones are taken."""
    await append(embedded, output("1", "a"))

    def limit(connection: Connection, pages: int) -> None:
        used = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {used + pages}")

    before = embedded.log.position
    await embedded.log.writer.write(limit, 1)
    with pytest.raises(Unavailable, match="full"):
        await embedded.log.append([[output("1", "b")], [output("2", "x" * 100_000, "k")]])
    assert embedded.log.position == before
    assert "full" in (embedded.log.failure or "")
    await embedded.log.writer.write(limit, 2**30)
    await embedded.log.sweep(RetentionSettings(), datetime.now(UTC))
    assert embedded.log.failure is None
    receipt = await append(embedded, output("1", "c"), output("2", "y", "k"))
    page = await embedded.log.read(ALL, OLDEST, 10)
    assert [(event.payload["output"], event.seq) for event in page.events] == [("a", 1), ("c", 2), ("y", 1)]
    assert page.events[-1].id == receipt.cursor


async def test_a_question_that_takes_too_long_is_given_up(
    embedded: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader is not held for ever, and answers the next question as if nothing had happened."""
    monkeypatch.setattr("heliograph.storage.embedded.sqlite.READ_SECONDS", 0.01)
    with pytest.raises(Unavailable, match="interrupted"):
        await embedded.database.read(count_up)
    monkeypatch.undo()
    assert await embedded.store.checkpoint() == OLDEST


def count_up(connection: Connection) -> object:
    """Ask what takes some seconds."""
    numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 20000000)"
    return connection.exec_driver_sql(f"{numbers} SELECT count(*) FROM n").scalar()


@pytest.mark.parametrize("long", [False, True])
async def test_a_question_that_nobody_waits_for_is_given_up(embedded: Embedded, long: bool) -> None:
    """Who asks and is cancelled holds no reader any longer, be the question a long one or not."""
    answers = []

    def ask(connection: Connection) -> None:
        answers.append(count_up(connection))

    async with trio.open_nursery() as nursery:
        for _ in range(READERS + 1):
            nursery.start_soon(embedded.database.read_long if long else embedded.database.read, ask)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert answers == []
    assert await embedded.store.checkpoint() == OLDEST


async def test_a_cancelled_append_is_kept_whole_and_heard(embedded: Embedded) -> None:
    """Cancelling whoever waits for a commit under way neither splits it nor hides it from followers."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(embedded.log.append, [[output("1", "a"), output("1", "b")]])
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    with trio.fail_after(5):
        batch = await embedded.log.tail(OLDEST)
    assert [event.payload["output"] for event in batch] == ["a", "b"]
    assert len(raw(embedded.folder, "SELECT id FROM events")) == 2


# Ids, keys and time


async def test_ids_rise_when_the_clock_goes_back(embedded: Embedded, clock: Clock) -> None:
    """Ids are the time when it goes on, and just the next number when it stands still or goes back."""
    receipts, begun = [], clock.milliseconds
    for milliseconds in (1000, 1000, 900, 1001):
        clock.milliseconds = begun + milliseconds
        receipts.append(await append(embedded, output("1", "x"), output("1", "y")))
    ids = [event_id for receipt in receipts for event_id in receipt.ids]
    assert ids == [
        *(make_id(begun + 1000, number) for number in range(6)),
        make_id(begun + 1001),
        make_id(begun + 1001, 1),
    ]


async def test_no_id_is_from_before_the_log_began(embedded: Embedded, clock: Clock) -> None:
    """Though the clock goes back, an event is none of those that another log in this place may have had."""
    begun, clock.milliseconds = clock.milliseconds, 1000
    receipt = await append(embedded, output("1", "x"))
    assert receipt.ids == (make_id(begun),)
    [loss] = embedded.log.losses
    assert loss.before == make_id(begun)


async def test_an_event_without_a_time_happened_when_it_was_appended(
    embedded: Embedded, clock: Clock
) -> None:
    """An event whose publisher gave no time has that of its id."""
    clock.milliseconds = 2_001_234_567_891
    await append(embedded, output("1", "x"))
    (event,) = (await embedded.log.read(ALL, OLDEST, 1)).events
    assert event.timestamp == datetime(2033, 6, 1, 10, 29, 27, 891000, tzinfo=UTC)


async def test_a_key_is_forgotten_after_its_time(embedded: Embedded, clock: Clock) -> None:
    """After its time a key is free, for the same content and for other."""
    first = await append(embedded, output("1", "a", "k"))
    clock.milliseconds += KEY_TTL // timedelta(milliseconds=1) - 1
    assert await append(embedded, output("1", "a", "k")) == first
    clock.milliseconds += 2
    second = await append(embedded, output("1", "b", "k"))
    assert second.ids[0] > first.ids[0]
    assert await append(embedded, output("1", "b", "k")) == second
    (refused,) = await embedded.log.append([[output("1", "a", "k")]])
    assert isinstance(refused, Conflict)


# Following


async def test_a_follower_far_behind_misses_nothing(embedded: Embedded) -> None:
    """Who is further behind than memory reaches reads the database, and joins what is in memory."""
    for size in (3000, 1, 3000):
        await embedded.log.append([[output("1", "x")] * size])
    newest = embedded.log.position
    whole = (await embedded.log.read(ALL, OLDEST, 10_000)).events
    for start in (0, 1, 1900, 2000, 4999, 6000):
        position = whole[start - 1].id if start else OLDEST
        seqs: list[int] = []
        while position < newest:
            batch = await embedded.log.tail(position)
            seqs += [event.seq for event in batch]
            position = batch[-1].id
        assert seqs == list(range(start + 1, 6002))


# The fold


def random_drafts(rng: random.Random, count: int) -> list[Draft]:
    """Make drafts about a few tasks, in any order of course and time."""
    drafts = []
    for n in range(count):
        task, at = rng.choice("abc"), (START + timedelta(seconds=rng.randint(0, 9))).isoformat()
        result = {"cost_usd": rng.randint(0, 99) / 100, "input_tokens": n} if rng.random() < 0.5 else None
        kinds: list[tuple[str, dict[str, Any]]] = [
            ("task.output", {"output": "é" * n}),
            ("task.created", {"name": f"n{n}", "metadata": {"n": n}, "input": rng.choice([0, "x", []])}),
            ("task.status", {"status": rng.choice(STATUSES), "result": result}),
            ("task.progress", {"percent": n}),
        ]
        topic, payload = rng.choice(kinds)
        drafts.append(draft(topic, {"task_id": task, **payload}, timestamp=at))
    return drafts


def folded(events: Iterable[Event]) -> dict[str, Task]:
    """Fold events by the model alone."""
    tasks: dict[str, Task] = {}
    for event in events:
        task = tasks.setdefault(event.channel.removeprefix("task:"), Task.first_seen(event))
        task.apply(event)
    return tasks


@pytest.mark.parametrize("seed", range(5))
async def test_the_tasks_are_the_fold_of_the_log(tmp_path: Path, seed: int) -> None:
    """However events are cut into requests, groups and lives of the process, the table is their fold."""
    rng = random.Random(seed)
    for _ in range(3):
        async with open_sqlite(tmp_path, KEY_TTL) as (log, database):
            for _ in range(rng.randint(1, 3)):
                await log.append([random_drafts(rng, rng.randint(1, 5)) for _ in range(rng.randint(1, 3))])
            events = (await log.read(ALL, OLDEST, 1000)).events
            store = SqlStore(database)
            kept, _ = await store.list(TASK, TaskFilter(), None, 100)
            assert {task.task_id: task for task in kept} == folded(events)
            assert await store.checkpoint() == events[-1].id == log.position
            counts = await store.count(TASK, "status")
            assert counts == Counter(task.status for task in kept)


# Questions


async def test_every_task_is_on_one_page(embedded: Embedded) -> None:
    """For any limit, the pages of a list hold every task once, newest first, also where moments are equal."""
    rng = random.Random(7)
    moments = [START + timedelta(microseconds=rng.choice([0, 1, 2, 1000])) for _ in range(23)]
    await append(embedded, *(created(f"t{n}", moment) for n, moment in enumerate(moments)))
    expected = sorted(((moment, f"t{n}") for n, moment in enumerate(moments)), reverse=True)
    for limit in (1, 2, 5, 22, 23, 24):
        pages = await list_all(embedded, limit)
        assert max(map(len, pages)) <= limit
        assert [(task.created_at, task.task_id) for page in pages for task in page] == expected


async def list_all(embedded: Embedded, limit: int) -> list[Sequence[Task]]:
    """Return every page of the list of tasks."""
    pages = []
    after, more = None, True
    while more:
        page, more = await embedded.store.list(TASK, TaskFilter(), after, limit)
        pages.append(page)
        after = TASK.position(page[-1])
    return pages


async def test_a_page_of_large_tasks_ends_early(embedded: Embedded) -> None:
    """However large tasks are, a page stays near its bound in bytes, and all of them are listed once."""
    for n in range(10):
        await append(embedded, created(f"t{n}", START + timedelta(seconds=n), input="x" * (PAGE_BYTES // 4)))
    pages = await list_all(embedded, 100)
    assert [len(page) for page in pages] == [4, 4, 2]
    assert [task.task_id for page in pages for task in page] == [f"t{n}" for n in reversed(range(10))]


async def test_a_task_appended_while_paging_disturbs_no_page(embedded: Embedded) -> None:
    """A newer task that appears between two pages neither repeats nor hides an older one."""
    await append(embedded, *(created(f"t{n}", START + timedelta(seconds=n)) for n in range(4)))
    first, _ = await embedded.store.list(TASK, TaskFilter(), None, 2)
    await append(embedded, created("new", START + timedelta(hours=1)))
    second, _ = await embedded.store.list(TASK, TaskFilter(), TASK.position(first[-1]), 2)
    assert [task.task_id for task in [*first, *second]] == ["t3", "t2", "t1", "t0"]


async def test_tasks_are_found_by_every_filter(embedded: Embedded) -> None:
    """Each filter, alone and with the others, lists just the tasks that a look at each one finds."""
    rng = random.Random(8)
    drafts = []
    for n in range(40):
        at = START + timedelta(seconds=n)
        fields = {
            name: rng.choice(["x", "y", None]) for name in ("agent", "agent_type", "model", "session_id")
        }
        name = rng.choice(["Build 100%", "under_score", "ÉTÉ", "été", "a\\b", None])
        drafts.append(created(f"t{n}", at, name=name, conversation_id=rng.choice("xy"), **fields))
        if rng.random() < 0.7:
            drafts.append(status(f"t{n}", rng.choice(STATUSES), {"error": rng.choice(["Boom", "x_y"])}))
    await append(embedded, *drafts)
    tasks, _ = await embedded.store.list(TASK, TaskFilter(), None, 100)

    def passes(task: Task, wanted: TaskFilter) -> bool:
        fields = ("agent", "agent_type", "model", "session_id", "conversation_id")
        words = (wanted.text or "").lower().split()
        named = (task.task_id, task.name, task.agent, task.agent_type, task.model, task.error)
        texts = [text.lower() for text in named if text]
        return (
            all(getattr(wanted, name) in {None, getattr(task, name)} for name in fields)
            and (not wanted.statuses or task.status in wanted.statuses)
            and (wanted.since is None or task.created_at >= wanted.since)
            and (wanted.until is None or task.created_at < wanted.until)
            and all(any(word in text for text in texts) for word in words)
        )

    texts = ["boom", "BUILD", "100%", "%", "_", "r_s", "T1", "ÉTÉ", "été", "\\", "'", "nowhere", "x T1"]
    wanted = [TaskFilter(text=text) for text in texts]
    wanted += [TaskFilter(statuses=(one,)) for one in STATUSES] + [TaskFilter(statuses=STATUSES[1:3])]
    for _ in range(60):
        maybe: dict[str, Any] = {
            name: rng.choice(["x", None, None])
            for name in ("agent", "agent_type", "model", "conversation_id")
        }
        since, until = (START + timedelta(seconds=rng.randint(0, 40)) for _ in range(2))
        wanted.append(TaskFilter(statuses=tuple(rng.sample(STATUSES, 3)), since=since, until=until, **maybe))
        wanted.append(TaskFilter(text=rng.choice(texts), **maybe))
    hits = 0
    for one in wanted:
        found, _ = await embedded.store.list(TASK, one, None, 100)
        assert list(found) == [task for task in tasks if passes(task, one)], one
        hits += len(found)
    assert hits > 100


async def test_every_event_is_on_one_page(embedded: Embedded) -> None:
    """For any selection and limit, the pages of events go back to the first one without a gap."""
    drafts = [output("1", "a"), output("2", "b"), draft("x.y", {}), output("1", "c"), draft("x.y", {"n": 1})]
    await append(embedded, *drafts * 4)
    whole = (await embedded.log.read(ALL, OLDEST, 1000)).events
    for selection in (ALL, Selection.of(["task:*"]), Selection.of(["task:1", "topic:x.y"], "x.*")):
        expected = [one for one in reversed(whole) if selection.covers(one.channel, one.topic)]
        for limit in (1, 3, 20, 100):
            listed: list[Event] = []
            before: EventId | None = None
            more = True
            while more:
                page, more = await embedded.store.events(selection, before, limit)
                assert len(page) <= limit
                listed += page
                before = listed[-1].id if listed else None
            assert listed == expected


async def test_large_events_make_shorter_pages(embedded: Embedded) -> None:
    """A page holds about a mebibyte at most, says that there is more, and the rest is on the next ones."""
    receipt = await append(embedded, *(output("1", str(n) + "x" * 400_000) for n in range(7)))
    forward: list[EventId] = []
    after, more = OLDEST, True
    while more:
        page = await embedded.log.read(ALL, after, 100)
        assert 0 < len(page.events) <= 3
        forward += [event.id for event in page.events]
        after, more = page.through, page.more
    assert forward == list(receipt.ids)
    backward: list[EventId] = []
    before, more = None, True
    while more:
        events, more = await embedded.store.events(ALL, before, 100)
        assert len(events) <= 3
        backward += [event.id for event in events]
        before = backward[-1]
    assert backward == list(receipt.ids[::-1])


async def test_lines_are_read_by_range(embedded: Embedded) -> None:
    """Any range of seq, from either end, gives the lines of output in it, in order."""
    await append(
        embedded, *([output("1", "x"), status("1", "running"), output("2", "other"), output("1", "y")] * 5)
    )
    events = (await embedded.log.read(Selection.of(["task:1"]), OLDEST, 100)).events
    lines = [event for event in events if event.topic == "task.output"]
    for first in range(1, 17, 3):
        for last in (None, 1, 7, 15, 99):
            for limit in (1, 4, 100):
                inside = [one for one in lines if first <= one.seq and (last is None or one.seq <= last)]
                ahead, more = await embedded.store.lines(TASK, "1", first, last, limit)
                back, more_before = await embedded.store.lines(TASK, "1", first, last, limit, newest=True)
                assert more == more_before == (len(inside) > limit)
                assert [(line.seq, line.id, line.output) for line in ahead] == [
                    (one.seq, one.id, one.payload["output"]) for one in inside[:limit]
                ]
                assert [line.seq for line in back] == [one.seq for one in inside[-limit:]]


async def test_large_lines_are_read_a_few_at_a_time(embedded: Embedded) -> None:
    """Reading goes on behind the last line until there are none, however large they are."""
    await append(embedded, *(output("1", "x" * 400_000) for _ in range(7)))
    seqs: list[int] = []
    more = True
    while more:
        page, more = await embedded.store.lines(TASK, "1", (seqs[-1] if seqs else 0) + 1, None, 100)
        assert 0 < len(page) <= 3
        seqs += [line.seq for line in page]
    assert seqs == [1, 2, 3, 4, 5, 6, 7]


async def test_a_line_says_where_it_was_written(embedded: Embedded) -> None:
    """A line has its stream, stdout unless said otherwise, and whether it goes on."""
    await append(
        embedded,
        output("1", "a"),
        draft("task.output", {"task_id": "1", "output": "b", "stream": "stderr", "partial": True}),
    )
    lines, _ = await embedded.store.lines(TASK, "1", 1, None, 10)
    assert [(line.output, line.stream, line.partial) for line in lines] == [
        ("a", "stdout", False),
        ("b", "stderr", True),
    ]


async def test_what_is_not_there_is_none(embedded: Embedded) -> None:
    """An unknown task is ``None``, has no lines, and counts nothing."""
    assert await embedded.store.get(TASK, "nobody") is None
    assert await embedded.store.lines(TASK, "nobody", 1, None, 10) == ([], False)
    assert await embedded.store.count(TASK, "status") == {}
    assert await embedded.store.checkpoint() == OLDEST


async def test_readers_do_not_wait_for_the_writer(embedded: Embedded) -> None:
    """Questions are answered from what is committed while a transaction is open."""
    await append(embedded, output("1", "a"))
    with closing(sqlite3.connect(embedded.folder / "heliograph.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM tasks")
        with trio.fail_after(3):
            task = await embedded.store.get(TASK, "1")
        writer.execute("ROLLBACK")
    assert task is not None


@pytest.mark.parametrize("field", ["input", "metadata", "result"])
@pytest.mark.parametrize("value", [{}, {"a": [1, 2.5, None, True, "é\n"]}, {"n": 2**64 - 1}])
async def test_json_of_a_task_is_kept_as_it_came(
    embedded: Embedded, field: str, value: dict[str, Any]
) -> None:
    """The JSON values of a task come back as they were published."""
    if field == "result":
        await append(embedded, status("1", "completed", value))
    else:
        await append(embedded, created("1", START, **{field: value}))
    task = await embedded.store.get(TASK, "1")
    assert getattr(task, field) == value


def test_moments_are_kept_to_the_microsecond() -> None:
    """The time of an event survives the database exactly."""
    moment = datetime(2026, 3, 29, 1, 59, 59, 999999, tzinfo=UTC)
    assert from_microseconds(to_microseconds(moment)) == moment


# The folder


async def test_one_process_owns_the_folder(tmp_path: Path) -> None:
    """A second opening is refused by name, also from another process, until the first is closed."""
    other = (
        "import sys, trio; from pathlib import Path; from datetime import timedelta\n"
        "from heliograph.storage.embedded.sqlite import open_sqlite\n"
        "from heliograph.model.errors import SettingsError\n"
        "async def main():\n"
        "    async with open_sqlite(Path(sys.argv[1]), timedelta(1)): print('open')\n"
        "try: trio.run(main)\n"
        "except SettingsError as error: print(error)\n"
    )
    command = [sys.executable, "-c", other, str(tmp_path)]
    async with open_sqlite(tmp_path, KEY_TTL):
        with pytest.raises(SettingsError, match="is in use by another heliograph"):
            async with open_sqlite(tmp_path, KEY_TTL):
                pass
        result = await trio.run_process(command, capture_stdout=True)
        assert b"is in use by another heliograph" in result.stdout
    assert (await trio.run_process(command, capture_stdout=True)).stdout == b"open\n"


async def test_a_folder_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    """A file in the folder's place is an error of the settings that names it."""
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"storage\.data: .*file"):
        async with open_sqlite(tmp_path / "file", KEY_TTL):
            pass


@pytest.mark.parametrize("content", [b"not a database" * 100, b""])
async def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    """Something else in the database's place is an error of the settings; an empty file becomes one."""
    (tmp_path / "heliograph.db").write_bytes(content)
    if content:
        with pytest.raises(SettingsError, match=r"storage\.data: .* not a database"):
            async with open_sqlite(tmp_path, KEY_TTL):
                pass
    else:
        async with open_sqlite(tmp_path, KEY_TTL) as (log, _):
            assert log.position == OLDEST


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A database made by a newer version is left alone, with what would help."""
    migrate_sqlite(tmp_path)
    with closing(sqlite3.connect(tmp_path / "heliograph.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    with pytest.raises(SettingsError, match="9999, made by a newer heliograph"):
        async with open_sqlite(tmp_path, KEY_TTL):
            pass
    with pytest.raises(SettingsError, match="9999"):
        migrate_sqlite(tmp_path)


def test_the_head_is_the_newest_migration() -> None:
    """What a start looks for without Alembic is what Alembic's migrations lead to."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [migrate.HEAD]


def test_a_start_that_has_nothing_to_migrate_needs_no_alembic(tmp_path: Path) -> None:
    """The service is imported, and a database of today's schema opened, without it."""
    migrate_sqlite(tmp_path)
    code = (
        "import sys, trio; from pathlib import Path; from datetime import timedelta\n"
        "from heliograph import service; from heliograph.storage.embedded.sqlite import open_sqlite\n"
        "async def main():\n"
        "    async with open_sqlite(Path(sys.argv[1]), timedelta(1)): print('alembic' in sys.modules)\n"
        "trio.run(main)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, check=True)
    assert done.stdout == b"False\n"


async def test_migrating_again_changes_nothing(embedded: Embedded, tmp_path: Path) -> None:
    """Opening migrates, a migrated database is migrated in no time, and it has just the tables it should."""
    other = tmp_path / "other"
    migrate_sqlite(other)
    migrate_sqlite(other)
    tables = "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
    assert raw(other, tables) == raw(embedded.folder, tables)


@pytest.mark.parametrize("name", ["sender", "correlation_id"])
def test_what_few_events_say_is_found_by_its_index(tmp_path: Path, name: str) -> None:
    """The newest events of one sender, or of one correlation id, are found without reading all others."""
    migrate_sqlite(tmp_path)
    question = f"SELECT * FROM events WHERE id < 9 AND {name} = 'x' ORDER BY id DESC LIMIT 50"
    plan = raw(tmp_path, f"EXPLAIN QUERY PLAN {question}")
    assert [step[-1] for step in plan] == [f"SEARCH events USING INDEX events_{name} ({name}=? AND id<?)"]


def test_what_a_task_did_is_found_among_its_lines(tmp_path: Path) -> None:
    """Events of another topic than output are found by their own index, however many lines there are."""
    migrate_sqlite(tmp_path)
    asked: list[str] = []
    engine = create_engine(f"sqlite:///{tmp_path / 'heliograph.db'}")
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.set_trace_callback(asked.append)
        for topic in ("task.status", "tool.*"):
            read_events(connection, Selection(("task:1",), topic), 9, newest=True)
    engine.dispose()
    for question in asked:
        plan = raw(tmp_path, f"EXPLAIN QUERY PLAN {question}")
        assert "USING INDEX events_others (channel=?" in plan[0][-1]
    assert len(asked) == 2


def test_ids_are_the_rowid(tmp_path: Path) -> None:
    """The id of an event is the table's own key, so that following needs no second index."""
    migrate_sqlite(tmp_path)
    plan = raw(tmp_path, "EXPLAIN QUERY PLAN SELECT * FROM events WHERE id > 5 ORDER BY id LIMIT 1")
    assert "INTEGER PRIMARY KEY" in plan[0][-1]
