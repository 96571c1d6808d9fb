"""Bounds of what a key has under way: one too many is refused, and nobody else waits for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import trio
from tests.conformance.clients import connect, request_head
from tests.http.conftest import Start, key, output
from tests.polling import until

from heliograph.http.rules.under_way import UnderWay
from heliograph.model.errors import TooMany

LINE = "x" * 1000
FULL = "/api/v1/tasks/1/logs/full"
READERS = 3


async def chunks(*data: bytes) -> AsyncIterator[bytes]:
    """Yield what it was given."""
    for one in data:
        yield one


def test_a_key_may_have_only_so_many_questions() -> None:
    """One too many is refused and counted, another key's is not, and one that has ended makes room."""
    questions = UnderWay("questions", 1)
    with questions.hold("a"):
        with pytest.raises(TooMany, match="1 questions"), questions.hold("a"):
            pass
        with questions.hold("b"):
            assert questions.total == 2
    with questions.hold("a"):
        assert (questions.total, questions.refused) == (1, 1)


async def test_an_answer_counts_until_it_is_let_go() -> None:
    """An answer makes room once it is written, left in the middle, or was never begun."""
    answers = UnderWay("long answers", 1)
    answer = answers.written("a", chunks(b"1", b"2"))
    with pytest.raises(TooMany):
        answers.written("a", chunks())
    assert [data async for data in answer] == [b"1", b"2"]
    del answer
    answer = answers.written("a", chunks(b"1", b"2"))
    assert await anext(answer) == b"1"
    await answer.aclose()  # type: ignore[attr-defined]  # it is a generator
    del answer
    answers.written("a", chunks())
    assert answers.total == 0


async def test_slow_readers_of_full_logs_take_a_bounded_share(start: Start) -> None:
    """While one key's readers take nothing, one more of it is refused and another key is served."""
    keys = (key("slow", "one"), key("good", "two"))
    api = await start(auth={"keys": keys}, server={"max_long_answers_per_key": READERS})
    slow, good = {"Authorization": "Bearer one"}, {"Authorization": "Bearer two"}
    for _ in range(4):
        await api.publish(*[output("1", LINE) for _ in range(2000)], headers=good)
    host = {"Host": httpx.URL(api.url).netloc.decode()}
    streams = [await connect(api.url, receive_buffer=4096) for _ in range(READERS)]
    for stream in streams:
        await stream.send_all(request_head("GET", FULL, {**host, **slow}))

    async def all_have_begun() -> bool:
        return f"long_answers {READERS}" in (await api.http.get("/metrics", headers=good)).text

    await until(all_have_begun)
    refused = await api.http.get(FULL, headers=slow)
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many")
    assert int(refused.headers["Retry-After"]) >= 1
    assert len((await api.http.get(FULL, headers=good)).text) == 4 * 2000 * (len(LINE) + 1)
    for stream in streams:
        await trio.aclose_forcefully(stream)

    async def is_served() -> bool:
        return (await api.http.get(FULL, headers=slow)).status_code == 200

    await until(is_served)
