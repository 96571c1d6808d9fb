"""Readers: threads that stay, and the connections that they keep."""

from __future__ import annotations

import threading
import weakref

import pytest
import trio
from sqlalchemy import Connection, event
from tests.polling import until
from tests.storage.conftest import Embedded

from heliograph.storage.embedded.sqlite import READERS


def who(connection: Connection) -> tuple[int, int]:
    """Return the thread and the connection."""
    return threading.get_ident(), id(connection)


async def test_a_reader_keeps_its_thread_and_its_connection(embedded: Embedded) -> None:
    """Questions one after the other are answered in one thread, and nothing is taken from the pool."""
    first = await embedded.database.read(who)
    taken: list[object] = []
    event.listen(embedded.database.engine, "checkout", lambda *_: taken.append(_))
    assert {await embedded.database.read(who) for _ in range(5)} == {first}
    assert taken == []


async def test_there_are_no_more_readers_than_questions_at_once(embedded: Embedded) -> None:
    """As many threads as may work at once answer any number of questions, each over its own connection."""
    answered: list[tuple[int, int]] = []
    all_there, going = threading.Barrier(READERS), [True]

    def meet(connection: Connection) -> tuple[int, int]:
        if going[0]:
            all_there.wait(10)
        going[0] = False
        return who(connection)

    async def ask() -> None:
        answered.append(await embedded.database.read(meet))

    async with trio.open_nursery() as nursery:
        for _ in range(3 * READERS):
            nursery.start_soon(ask)
    assert len(answered) == 3 * READERS
    assert len({thread for thread, _ in answered}) == len({kept for _, kept in answered}) == READERS


async def test_a_question_leaves_nothing_behind(embedded: Embedded) -> None:
    """A transaction that a question has begun ends with it; an error costs the reader its connection."""

    def begin(connection: Connection) -> tuple[int, int]:
        assert not connection.in_transaction()
        connection.exec_driver_sql("SELECT 1")
        assert connection.in_transaction()
        return who(connection)

    def fail(connection: Connection) -> None:
        begin(connection)
        raise ValueError("of the question's own")

    first = await embedded.database.read(begin)
    assert await embedded.database.read(begin) == first
    with pytest.raises(ValueError, match="of the question"):
        await embedded.database.read(fail)
    assert (await embedded.database.read(begin))[0] == first[0]


async def test_an_idle_reader_holds_no_answer(embedded: Embedded) -> None:
    """What was answered is free when its caller has done with it, however long the next question takes."""

    class Large:
        """An answer."""

    answer = await embedded.database.read(lambda connection: Large())
    left = weakref.ref(answer)
    del answer

    async def freed() -> bool:
        return left() is None

    await until(freed)
