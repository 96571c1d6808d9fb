"""Channels of which nothing is kept are forgotten, and nobody misses an event for it; on both forms."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.conformance.test_storage import event, kept, output, read_all, status
from tests.polling import until
from tests.storages import DistributedForm, Form, Storage, archived

from heliograph.actors.clock import Clock
from heliograph.actors.retention import Retention
from heliograph.model.channels import Selection
from heliograph.model.event import Draft
from heliograph.model.ids import OLDEST, EventId
from heliograph.model.settings import RetentionSettings
from heliograph.model.task import TASK
from heliograph.storage.artifacts import FolderArtifacts
from heliograph.storage.protocols import BEGINNING, Place
from heliograph.storage.sql import forgetting

NOTHING = RetentionSettings(max_age_seconds=1, entities_max_age_seconds=1)


def later() -> datetime:
    """Return a time at which everything that is published now has been silent for long enough."""
    return datetime.now(UTC) + forgetting.QUIET + timedelta(minutes=1)


async def forget(storage: Storage, now: datetime) -> tuple[int, int]:
    """Walk over all channels; return how many are kept, and how many were forgotten."""
    await archived(storage)
    channels = number = 0
    place: Place | None = BEGINNING
    while place is not None:
        part = await storage.keeper.forget(now, place)
        channels, number, place = channels + part.channels, number + part.number, part.place
    return channels, number


async def seq_of_next(storage: Storage, draft: Draft) -> int:
    """Append a draft; return its ``seq``."""
    [event_id] = await kept(storage, [draft])
    [said] = await read_all(storage, Selection.of([draft.channel]), EventId(event_id - 1))
    return said.seq


async def trimmed(storage: Storage, *selectors: str) -> EventId:
    """Return up to where a reader of a selection is told that events are gone."""
    return (await storage.log.bounds(Selection.of(selectors))).trimmed


async def test_a_channel_of_which_nothing_is_kept_begins_again(
    form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty, silent channel goes; one with an event, a task or a young end stays and counts on."""
    monkeypatch.setattr(forgetting, "PART", 2)
    async with form.open() as storage:
        for name in ("ended", "running"):
            await kept(storage, [output(name, "a"), output(name, "b")])
        await kept(storage, [event("gone.long"), status("ended", "completed")])
        await archived(storage)
        assert await forget(storage, later()) == (3, 0)  # events are there
        await storage.sweep(NOTHING, later())
        assert await forget(storage, datetime.now(UTC)) == (3, 0)  # they were there a moment ago
        await kept(storage, [event("new.kept")])
        assert await forget(storage, later()) == (2, 2)
        assert await storage.store.get(TASK, "ended") is None
        for draft, seq in (
            (output("ended", "c"), 1),
            (event("gone.long"), 1),
            (output("running", "c"), 3),
            (event("new.kept"), 2),
        ):
            assert await seq_of_next(storage, draft) == seq
        await archived(storage)
        task = await storage.store.get(TASK, "ended")
        assert task is not None
        assert (task.last_seq, task.output_lines) == (1, 1)
        assert await forget(storage, later()) == (4, 0)


async def test_a_cursor_into_a_forgotten_channel_is_told(form: Form) -> None:
    """It is told before the channel has begun again and after; a cursor from after its end is not."""
    async with form.open() as storage:
        first, last = await kept(storage, [event("x.y"), event("x.y")])
        await archived(storage)
        await storage.sweep(NOTHING, later())
        assert await forget(storage, later()) == (0, 1)
        [other] = await kept(storage, [event("other.topic")])
        for selectors in (("topic:x.y",), ("topic:*",), ("*",), ("topic:other.topic", "topic:x.y")):
            assert first < await trimmed(storage, *selectors) == last < other
        assert await trimmed(storage, "analytics") == OLDEST  # such a channel is never forgotten
        await kept(storage, [event("x.y")])
        await archived(storage)
        assert await trimmed(storage, "topic:x.y") == last
    async with form.open() as storage:
        assert await trimmed(storage, "topic:x.y") == last


@pytest.mark.parametrize("seed", range(4))
async def test_no_cursor_misses_an_event_in_silence(form: Form, seed: int) -> None:
    """Whatever is published, removed and forgotten: what a cursor is not given, it is told of."""
    chance = random.Random(seed)
    topics = ["a.a", "b.b", "c.c"]
    published: list[tuple[EventId, str]] = []
    async with form.open() as storage:
        for _ in range(12):
            drafts = [event(chance.choice(topics)) for _ in range(chance.randint(1, 4))]
            ids = await kept(storage, drafts)
            published += zip(ids, (draft.channel for draft in drafts), strict=True)
            await archived(storage)
            if chance.random() < 0.7:
                await storage.sweep(RetentionSettings(max_events=chance.randint(1, 4)), later())
            if chance.random() < 0.7:
                await forget(storage, later())
            for selectors in (("topic:a.a",), ("topic:b.b", "topic:c.c"), ("topic:*",)):
                selection = Selection.of(selectors)
                gone = await trimmed(storage, *selectors)
                for cursor, _ in published:
                    if cursor < gone:
                        continue  # it is answered by a reset
                    wanted = [i for i, name in published if i > cursor and selection.covers(name, "x")]
                    assert [one.id for one in await read_all(storage, selection, cursor)] == wanted
        kept_now = await read_all(storage)
    for topic in topics:
        seqs = [one.seq for one in kept_now if one.topic == topic]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs))) if seqs else True


async def test_retention_walks_over_the_channels(form: Form, tmp_path: Path) -> None:
    """The actor forgets what it has emptied, counts what it keeps, and says both."""
    async with form.open() as storage:
        await kept(storage, [event("x.y")], [output("t", "a")])
        await archived(storage)
        clock = Clock(lambda: OLDEST, wall=lambda: time.time() + 2 * forgetting.QUIET.total_seconds())
        retention = Retention(storage.keeper, FolderArtifacts(tmp_path), NOTHING, clock)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(retention.run)

            async def walked() -> bool:
                return retention.stats().channels is not None

            await until(walked)
            nursery.cancel_scope.cancel()
        stats = retention.stats()
        assert (stats.channels, stats.forgotten) == (1, 1)  # the task runs


async def test_a_channel_that_moves_while_it_is_forgotten_stays(distributed: DistributedForm) -> None:
    """A number that has moved, another walk or another run of Redis keeps the number in Redis."""
    async with distributed.open() as storage, distributed.node() as node:
        await kept(storage, [event("x.y")])
        await archived(storage)
        stream = node.stream

        def walks() -> None:
            walked = stream.walk(0)
            assert walked.heads == {"topic:x.y": 1}
            stream.walk(0)
            assert stream.forget(walked, ["topic:x.y"]) == 0
            walked = stream.walk(0)
            stream.client.hincrby(f"{stream.prefix}:state", "generation", 1)
            assert stream.forget(walked, ["topic:x.y"]) == 0
            stream.client.hincrby(f"{stream.prefix}:state", "generation", -1)
            walked = stream.walk(0)
            stream.append([[event("x.y")]])
            assert stream.forget(walked, ["topic:x.y"]) == 0

        await trio.to_thread.run_sync(walks)
        assert await seq_of_next(storage, event("x.y")) == 3


async def test_a_channel_whose_first_event_is_not_archived_stays(
    distributed: DistributedForm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel without a row is waited for until everything before is archived."""
    looked: list[forgetting.Known] = []

    def look(*asked: Any) -> forgetting.Known:
        looked.append(known(*asked))
        return looked[-1]

    async def has_looked() -> bool:
        return len(looked) > 1

    known = forgetting.known
    monkeypatch.setattr(forgetting, "known", look)
    async with distributed.node() as node:
        [_] = await node.log.append([[event("x.y")]])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.archive.forget, later(), 0)
            await until(has_looked)
            assert not looked[-1].names
            assert await node.archive.begin()
            await node.archive.step()
        node.archive.end()
        await node.log.append([[event("x.y")]])
        page = await node.log.read(Selection.of(["topic:x.y"]), OLDEST, 10)
        assert [one.seq for one in page.events] == [1, 2]


async def test_a_number_that_a_crash_left_behind_goes(distributed: DistributedForm) -> None:
    """A channel whose row went while its number stayed in Redis is forgotten by the next walk."""
    async with distributed.open() as storage, distributed.node() as node:
        await kept(storage, [event("x.y")])
        await archived(storage)
        await storage.sweep(NOTHING, later())
        gone = await node.database.write(forgetting.forget, ["topic:x.y"], later())
        assert list(gone) == ["topic:x.y"]
        assert await forget(storage, later()) == (0, 0)
        assert await seq_of_next(storage, event("x.y")) == 1
