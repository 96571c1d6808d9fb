from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import pytest
import trio

from heliograph.client.answers import OutputLine, problem_error
from heliograph.client.api import Client
from heliograph.model import errors
from heliograph.storage import protocols

if TYPE_CHECKING:
    from tests.client.conftest import FakeService

BUSY: tuple[int, dict[str, str], dict[str, Any]] = (503, {"Retry-After": "0"}, {"detail": "busy"})


async def test_publish_until_kept(service: FakeService) -> None:
    """A refused and a lost answer are tried again with the same keys, so each item is kept once, in order."""
    service.script.extend([BUSY, "lost"])
    retries: list[str] = []
    with trio.fail_after(10):
        async with Client(service.url, "secret") as client:
            items = [{"topic": "a.b", "payload": {"n": n}} for n in range(3)]
            receipt = await client.publish(items, lambda error, delay: retries.append(str(error)))
    assert receipt.accepted == 3
    assert [item["payload"]["n"] for item in service.kept] == [0, 1, 2]
    assert retries[0] == "busy"
    assert len(retries) == 2
    assert {headers["x-api-key"] for _, _, headers in service.asked} == {"secret"}


async def test_own_key(service: FakeService) -> None:
    """A key that the caller gives is kept as it is."""
    async with Client(service.url) as client:
        await client.publish([{"topic": "a", "key": "mine"}])
    assert service.kept[0]["key"] == "mine"


async def test_key_that_is_null(service: FakeService) -> None:
    """An item whose key is null is given one, so that it is kept once when an answer was lost."""
    service.script.append("lost")
    with trio.fail_after(10):
        async with Client(service.url) as client:
            await client.publish([{"topic": "a", "key": None}, {"topic": "b", "key": None}])
    assert [item["topic"] for item in service.kept] == ["a", "b"]
    assert all(item["key"] for item in service.kept)


async def test_refusal(service: FakeService) -> None:
    """A request that is wrong is not tried again; the error names each bad field."""
    problem = {"errors": [{"index": 1, "field": "topic", "detail": "is missing"}]}
    service.script.append((422, {}, problem))
    async with Client(service.url) as client:
        with pytest.raises(errors.Invalid) as caught:
            await client.publish([{"topic": "a"}, {}])
    assert caught.value.errors == (errors.FieldError("topic", "is missing", 1),)
    assert len(service.asked) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.Malformed),
        (401, errors.Unauthenticated),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (413, errors.TooLarge),
        (415, errors.UnsupportedMedia),
        (418, errors.ClientFault),
        (429, errors.TooMany),
        (500, errors.Unavailable),
        (502, errors.Unavailable),
        (503, errors.Unavailable),
    ],
)
def test_problems(status: int, kind: type[errors.HeliographError]) -> None:
    """Each status becomes its error, with the problem's detail, whatever a proxy has made of the body."""
    assert type(problem_error(status, b'{"detail": "so it is"}')) is kind
    assert str(problem_error(status, b'{"detail": "so it is"}')) == "so it is"
    assert str(status) in str(problem_error(status, b"<html>"))
    assert str(status) in str(problem_error(status, b"[]"))


async def test_marked_lines(service: FakeService) -> None:
    """A log's lines come with the marks of pieces; each field that the service may give is known."""
    line = {"seq": 2, "id": "1-0", "timestamp": "2026-01-01T00:00:00Z", "stream": "stdout", "output": "10%"}
    marked = {**line, "seq": 3, "partial": True, "rewind": True}
    service.streams.append((200, orjson.dumps({"lines": [line, marked], "meta": {}})))
    async with Client(service.url) as client:
        lines = await client.logs("t1")
    assert [(line.seq, line.partial, line.rewind) for line in lines] == [(2, False, False), (3, True, True)]
    assert {field.name for field in attrs.fields(OutputLine)} == {
        field.name for field in attrs.fields(protocols.LogLine)
    }


async def test_unreachable(service: FakeService) -> None:
    """A service that is not there is Unavailable, and the message says where it was looked for."""
    async with Client("http://127.0.0.1:1") as client:
        with pytest.raises(errors.Unavailable, match=re.escape("http://127.0.0.1:1")):
            await client.tasks()


async def test_something_else(service: FakeService) -> None:
    """What answers but is not Heliograph is named as such."""
    service.streams.append((200, b"<html>Welcome</html>"))
    async with Client(service.url) as client:
        with pytest.raises(errors.Malformed, match="not Heliograph"):
            await client.task("t1")
