"""The promises of a log, on the embedded one and on the one in memory that stands in for it elsewhere."""

import random

import pytest
import trio
import trio.testing
from tests.strategies import draft, output, status

from heliograph.model.channels import EVERYTHING, Selection
from heliograph.model.errors import Conflict
from heliograph.model.event import Draft, Event
from heliograph.model.ids import OLDEST, EventId, make_id
from heliograph.storage.protocols import Log, Receipt

ALL = Selection((EVERYTHING,))
SELECTIONS = [
    ALL,
    Selection.of(["task:1"]),
    Selection.of(["task:*"]),
    Selection.of(["task:1", "task:12", "webhooks"]),
    Selection.of(["task:*", "topic:*"], "task.*"),
    Selection.of([], "task.status"),
    Selection.of([], "nothing.*"),
    Selection.of(["workflow:none"]),
]


def some_drafts(rng: random.Random, count: int) -> list[Draft]:
    """Make drafts on a few channels."""
    makers = [
        lambda n: output(rng.choice(["1", "2", "12"]), f"line {n}"),
        lambda n: status(rng.choice(["1", "2"]), rng.choice(["running", "completed"])),
        lambda n: draft("webhook.received", {"n": n}),
        lambda n: draft("deploy.done", {"n": n}),
        lambda n: draft("pipeline.completed", {"workflow_id": "w", "n": n}),
    ]
    return [rng.choice(makers)(n) for n in range(count)]


async def append(log: Log, *drafts: Draft) -> Receipt:
    """Append one request; raise what refuses it."""
    (answer,) = await log.append([drafts])
    if not isinstance(answer, Receipt):
        raise answer
    return answer


async def everything(log: Log, selection: Selection = ALL) -> list[Event]:
    """Read the whole log in one page."""
    return list((await log.read(selection, OLDEST, 100_000)).events)


async def test_ids_rise_in_the_order_of_drafts(log: Log) -> None:
    """Each draft gets an id, in order, newer than every id before."""
    first = await append(log, output("1", "a"), output("2", "b"))
    second = await append(log, output("1", "c"))
    ids = [*first.ids, *second.ids]
    assert ids == sorted(set(ids))
    assert (first.cursor, second.cursor) == (ids[1], ids[2])
    assert log.position == ids[2]
    assert [event.id for event in await everything(log)] == ids


async def test_an_event_is_what_was_appended(log: Log) -> None:
    """What is read back is the draft with its id and seq."""
    given = draft(
        "a.b", {"n": [1, 2.5, None, "é"]}, sender="me", correlation_id="c", timestamp="2026-01-01T00:00:00Z"
    )
    receipt = await append(log, given)
    assert given.timestamp is not None
    assert await everything(log) == [
        Event(receipt.ids[0], "topic:a.b", 1, "a.b", given.timestamp, given.payload, "me", "c", given.body)
    ]


async def test_seq_has_no_holes_in_a_channel(log: Log) -> None:
    """Each channel counts 1, 2, 3, … over requests and groups."""
    rng = random.Random(1)
    for _ in range(6):
        await log.append([some_drafts(rng, rng.randint(1, 5)) for _ in range(rng.randint(1, 4))])
    seen: dict[str, list[int]] = {}
    for event in await everything(log):
        seen.setdefault(event.channel, []).append(event.seq)
    assert len(seen) > 3
    assert all(seqs == list(range(1, len(seqs) + 1)) for seqs in seen.values())


async def test_a_key_keeps_one_event(log: Log) -> None:
    """A retry with the same key and content answers the same id and appends nothing."""
    once = await append(log, output("1", "a", "k1"), output("1", "b", "k2"))
    assert await append(log, output("1", "b", "k2"), output("1", "a", "k1")) == Receipt(once.ids[::-1])
    grown = await append(log, output("1", "a", "k1"), output("1", "c", "k3"))
    assert grown.ids[0] == once.ids[0]
    assert [event.payload["output"] for event in await everything(log)] == ["a", "b", "c"]


async def test_a_key_counts_within_its_own_group(log: Log) -> None:
    """The same key twice in a request, and in two requests of a group, keeps one event."""
    one, other = await log.append([[output("1", "a", "k"), output("1", "a", "k")], [output("1", "a", "k")]])
    assert isinstance(one, Receipt)
    assert isinstance(other, Receipt)
    assert len({*one.ids, *other.ids}) == 1
    assert len(await everything(log)) == 1


@pytest.mark.parametrize(
    "reused",
    [output("1", "b", "k"), output("2", "a", "k"), draft("other", {"task_id": "1", "output": "a"}, key="k")],
)
async def test_a_key_used_for_something_else_is_refused(log: Log, reused: Draft) -> None:
    """A key with other content, channel or topic refuses its request and keeps nothing of it."""
    await append(log, output("1", "a", "k"))
    answers = await log.append([[output("1", "x")], [output("1", "y"), reused], [output("1", "z")]])
    assert [type(answer) for answer in answers] == [Receipt, Conflict, Receipt]
    assert "'k'" in str(answers[1])
    assert [event.payload["output"] for event in await everything(log)] == ["a", "x", "z"]


async def test_a_request_may_contradict_itself(log: Log) -> None:
    """Two contents for one key within a request refuse it, and a later request may use the key."""
    (answer,) = await log.append([[output("1", "a", "k"), output("1", "b", "k")]])
    assert isinstance(answer, Conflict)
    assert await everything(log) == []
    await append(log, output("1", "b", "k"))


async def test_pages_join_to_the_selection(log: Log) -> None:
    """For any selection and any size of page, the pages hold each of its events once, in order."""
    rng = random.Random(2)
    await log.append([some_drafts(rng, 20), some_drafts(rng, 25)])
    whole = await everything(log)
    for selection in SELECTIONS:
        wanted = [event for event in whole if selection.covers(event.channel, event.topic)]
        for limit in (1, 2, 3, 7, 44, 45, 46, 1000):
            read: list[Event] = []
            after = OLDEST
            while True:
                page = await log.read(selection, after, limit)
                assert len(page.events) <= limit
                read += page.events
                if not page.more:
                    break
                assert page.through > after
                after = page.through
            assert read == wanted
            assert page.through == log.position


async def test_a_page_begins_behind_its_position(log: Log) -> None:
    """Whatever position is given, the page holds what is newer and nothing else."""
    receipt = await append(log, *some_drafts(random.Random(3), 10))
    whole = await everything(log)
    for position in (*receipt.ids, EventId(receipt.ids[4] - 1), make_id(1), EventId(2**63 - 1)):
        page = await log.read(ALL, position, 100)
        assert list(page.events) == [event for event in whole if event.id > position]
        assert page.through == max(log.position, position)


async def test_a_tail_begins_before_the_last_events(log: Log) -> None:
    """Behind the start of a selection's tail are its newest events, so many, or all."""
    rng = random.Random(4)
    await append(log, *some_drafts(rng, 30))
    whole = await everything(log)
    for selection in SELECTIONS:
        wanted = [event for event in whole if selection.covers(event.channel, event.topic)]
        for limit in (1, 5, 100):
            page = await log.read(selection, await log.tail_start(selection, limit), 1000)
            assert list(page.events) == wanted[-limit:]
            assert page.through == log.position


async def test_an_empty_log_reads_as_empty(log: Log) -> None:
    """Before the first event every reading is empty and reaches the beginning."""
    assert log.position == OLDEST
    page = await log.read(ALL, OLDEST, 10)
    assert (list(page.events), page.through, page.more) == ([], OLDEST, False)
    assert await log.tail_start(ALL, 10) == OLDEST
    assert (await log.bounds(ALL)).head == OLDEST


async def test_the_bounds_are_the_heads(log: Log) -> None:
    """Nothing is trimmed at first, and the head is the newest id of the whole log."""
    receipt = await append(log, output("1", "a"), output("2", "b"))
    bounds = await log.bounds(Selection.of(["task:1"]))
    assert (bounds.trimmed, bounds.head) == (OLDEST, receipt.ids[1])


async def follow(log: Log, heard: list[Event], *, task_status: trio.TaskStatus[None]) -> None:
    """Follow the log from its head on, into a list."""
    position = log.position
    task_status.started()
    while True:
        heard += await log.tail(position)
        position = heard[-1].id


async def test_the_tail_waits_for_what_comes(log: Log, nursery: trio.Nursery) -> None:
    """A follower at the head waits until something is appended, then hears just that."""
    await append(log, output("1", "old"))
    heard: list[Event] = []
    await nursery.start(follow, log, heard)
    await trio.testing.wait_all_tasks_blocked()
    assert heard == []
    await append(log, output("1", "a"), output("1", "b"))
    await trio.testing.wait_all_tasks_blocked()
    assert [event.payload["output"] for event in heard] == ["a", "b"]
    nursery.cancel_scope.cancel()


async def test_a_follower_hears_everything_once(log: Log) -> None:
    """From any position on, following gives every event once and in order."""
    rng = random.Random(5)
    for size in (1, 3, 10, 2):
        await append(log, *some_drafts(rng, size))
    whole = await everything(log)
    for start in (OLDEST, whole[0].id, whole[7].id, whole[-2].id):
        position, heard = start, list[Event]()
        while position < log.position:
            batch = await log.tail(position)
            assert batch
            heard += batch
            position = batch[-1].id
        assert heard == [event for event in whole if event.id > start]


async def test_a_refused_append_wakes_nobody(log: Log, nursery: trio.Nursery) -> None:
    """A group of which nothing was kept leaves the position, and a follower waiting."""
    before = (await append(log, output("1", "a", "k"))).cursor
    heard: list[Event] = []
    await nursery.start(follow, log, heard)
    (answer,) = await log.append([[output("1", "b", "k")]])
    assert isinstance(answer, Conflict)
    await trio.testing.wait_all_tasks_blocked()
    assert (log.position, heard) == (before, [])
    nursery.cancel_scope.cancel()
