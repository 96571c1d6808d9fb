"""One node archives at a time, another takes over, and nobody folds twice."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import psycopg
import pytest
import trio
from psycopg.pq import ExecStatus
from sqlalchemy import Connection, NullPool, create_engine, make_url
from tests.archived import await_outputs, check_archive
from tests.polling import until
from tests.servers import READY_SECONDS, wait_until
from tests.storages import DistributedForm, administrate

from heliograph.actors.archiver import Archiver
from heliograph.actors.turns import TURN_SECONDS
from heliograph.model.errors import Unavailable
from heliograph.model.intake import parse_item
from heliograph.model.task import TASK
from heliograph.storage.distributed import archive
from heliograph.storage.distributed import form as distributed
from heliograph.storage.distributed.locks import ARCHIVE_LOCK, LOCKS
from heliograph.storage.distributed.postgres import database_url as url_of
from heliograph.storage.distributed.postgres import translated
from heliograph.storage.settings import PostgresSettings, RedisSettings

if TYPE_CHECKING:
    from tests.chaos.conftest import NodeMaker
    from tests.servers import PostgresServer, RedisServer

HANDOVER_SECONDS = 10
"""The promise: after so long another node archives, whatever became of the one before."""
BACKLOG, BATCH = 35_000, 10_000
END_SESSIONS = """SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND application_name = 'heliograph'"""


def line(text: str) -> dict[str, str]:
    """Make a line of output, with a key."""
    return {"type": "task_output", "task_id": "t", "output": text, "key": text}


def test_another_node_takes_over_after_a_kill(make_node: NodeMaker, database_url: str) -> None:
    """The archiver's node is killed -9; the other one archives what comes, and what the first had left."""
    first, second = make_node("first"), make_node("second")
    first.start()
    wait_until(lambda: first.archives, "the first archives")
    second.start()
    published = [f"{n}" for n in range(200)]
    for text in published[:100]:
        assert first.publish(line(text)).status_code == 201
    first.kill()
    for text in published[100:]:
        assert second.publish(line(text)).status_code == 201
    await_outputs(database_url, 200)
    assert second.archives
    check_archive(database_url, published)


async def test_a_backlog_is_archived_once_however_often_the_session_ends(
    redis: RedisServer, postgres: PostgresServer, database_url: str
) -> None:
    """With batches read ahead, a session that PostgreSQL ends in the middle leaves no hole and no double."""
    form = DistributedForm(database_url, redis.url, RedisSettings(bridge=""))
    published = [str(n) for n in range(BACKLOG)]
    async with form.node() as node, trio.open_nursery() as nursery:
        for start in range(0, BACKLOG, 2000):
            drafts = [parse_item(line(text), 1 << 20) for text in published[start : start + 2000]]
            await node.log.append([drafts])
        archiver = Archiver(node.archive)
        nursery.start_soon(archiver.run)
        ended = 0
        with trio.fail_after(READY_SECONDS):
            while await node.store.checkpoint() < node.log.position:
                if archiver.stats().events > BATCH * ended:
                    await trio.to_thread.run_sync(administrate, postgres.url(), END_SESSIONS)
                    ended += 1
                await trio.sleep(0.01)
        assert ended >= 2
        assert archiver.stats().terms >= 2
        nursery.cancel_scope.cancel()
    check_archive(database_url, published)


async def test_a_task_that_is_not_archived_yet_is_waited_for(
    redis: RedisServer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the node that appended it, a task is not called unknown while the archive is behind."""
    monkeypatch.setattr(distributed, "ARRIVAL_SECONDS", 20.0)
    form = DistributedForm(database_url, redis.url, RedisSettings(bridge=""))
    async with form.node() as node, trio.open_nursery() as nursery:
        await node.log.append([[parse_item(line("x"), 1 << 20)]])
        nursery.start_soon(Archiver(node.archive).run)
        task = await node.store.get(TASK, "t")
        assert task is not None
        assert task.output_lines == 1
        assert await node.store.get(TASK, "nobody") is None
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("within", ["a transaction", "a COPY", "a pipeline"])
async def test_a_session_that_falls_silent_is_ended(
    redis: RedisServer, database_url: str, within: str
) -> None:
    """Wherever the holder of the lock stopped talking, the next in line archives soon."""
    settings = PostgresSettings(takeover_seconds=1)
    form = DistributedForm(database_url, redis.url, RedisSettings(bridge=""), settings)
    with psycopg.connect(database_url) as silent:
        silent.execute("SELECT pg_advisory_lock(%s, %s)", (LOCKS, ARCHIVE_LOCK))
        if within == "a COPY":
            silent.execute("CREATE TEMPORARY TABLE copied (n int)")
            assert silent.pgconn.exec_(b"COPY copied FROM STDIN").status == ExecStatus.COPY_IN
        elif within == "a pipeline":
            silent.pgconn.enter_pipeline_mode()
            silent.pgconn.send_query_params(b"SELECT 1", None)
            silent.pgconn.send_flush_request()
            silent.pgconn.flush()
        async with form.node() as node:
            assert not await node.archive.begin()
            await until(node.archive.begin)
            node.archive.end()
        silent.close()


async def test_a_session_that_ends_while_another_node_archives_is_an_outage(
    redis: RedisServer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node whose turn it is not, and whose session is gone before it has closed it, tries again."""

    def end_it(session: Connection, *_: object) -> None:
        pid = session.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        holder.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))

    monkeypatch.setattr(archive, "end_silent_holder", end_it)
    form = DistributedForm(database_url, redis.url, RedisSettings(bridge=""))
    with psycopg.connect(database_url, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(%s, %s)", (LOCKS, ARCHIVE_LOCK))
        async with form.node() as node:
            with pytest.raises(Unavailable):
                await node.archive.begin()
            monkeypatch.undo()
            assert not await node.archive.begin()


def test_a_session_that_was_ended_in_a_transaction_is_an_outage(database_url: str) -> None:
    """A node that wakes up within a transaction, when its session is gone, is not taken for a bug."""
    parameters = {"options": "-c idle_in_transaction_session_timeout=50"}
    engine = create_engine(url_of(database_url), connect_args=parameters, poolclass=NullPool)
    with engine.connect() as connection, psycopg.connect(database_url, autocommit=True) as other:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()

        def gone() -> bool:
            found = other.execute("SELECT FROM pg_stat_activity WHERE pid = %s", (pid,))
            return found.fetchone() is None

        wait_until(gone, "the session is ended")
        with pytest.raises(Unavailable, match="idle-in-transaction timeout"), translated():
            connection.exec_driver_sql("SELECT 1")


def test_a_paused_node_is_replaced_and_cannot_fold_twice(make_node: NodeMaker, database_url: str) -> None:
    """SIGSTOP the archiver's node until the other one has taken over, wake it, and again the other way.

    The silence is set shorter than it is by default, so that less is waited for; by default it and what comes
    on top of it, the next node's turn and its beginning, stay within the promise.
    """
    assert PostgresSettings().takeover_seconds + 2 * TURN_SECONDS < HANDOVER_SECONDS
    nodes = [make_node(name, settings="postgres.takeover_seconds = 2.0") for name in ("first", "second")]
    for node in nodes:
        node.start()
    numbers = count()
    published: list[str] = []

    def publish(through: int, many: int) -> None:
        texts = [f"{next(numbers)}" for _ in range(many)]
        assert nodes[through].publish(*map(line, texts)).status_code == 201
        published.extend(texts)

    for _ in range(2):
        # Both may say so while the one that was woken has not looked yet.
        wait_until(lambda: nodes[0].archives != nodes[1].archives, "one archives")
        active = 0 if nodes[0].archives else 1
        for _ in range(20):  # so that it is paused somewhere in the middle of a batch
            publish(active, 50)
        nodes[active].pause()
        for _ in range(20):
            publish(1 - active, 50)
        await_outputs(database_url, len(published))
        nodes[active].resume()
        for through in (0, 1):
            publish(through, 50)
        await_outputs(database_url, len(published))
    check_archive(database_url, published)


def test_an_old_backup_is_brought_up_to_date_from_the_log(
    make_node: NodeMaker, postgres: PostgresServer, database_url: str
) -> None:
    """PostgreSQL restored from a backup gets what came since from Redis, which has kept it."""
    node = make_node("node")
    node.start()
    published = [f"{n}" for n in range(100)]
    assert node.publish(*map(line, published[:50])).status_code == 201
    await_outputs(database_url, 50)
    node.kill()
    name = make_url(database_url).database
    administrate(postgres.url(), f"CREATE DATABASE backup TEMPLATE {name}")
    node.start()
    assert node.publish(*map(line, published[50:])).status_code == 201
    await_outputs(database_url, 100)
    node.kill()
    administrate(postgres.url(), f"DROP DATABASE {name} WITH (FORCE)")
    administrate(postgres.url(), f"ALTER DATABASE backup RENAME TO {name}")
    node.start()
    await_outputs(database_url, 100)
    assert node.publish(*map(line, published)).json()["accepted"] == 100
    check_archive(database_url, published)
