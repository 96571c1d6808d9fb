"""Bodies as programs really send them: packed, marked, with odd numbers and halves of characters."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio
from tests.http.conftest import Api, Start, output
from tests.http.rules.test_auth import key

from heliograph.http.rules import bodies

EVENTS = "/api/v1/events"
JSON = {"Content-Type": "application/json"}
LINES = {"Content-Type": "application/x-ndjson"}
BOMB = gzip.compress(b" " * 40_000_000, mtime=0)


async def send(api: Api, body: bytes, headers: dict[str, str], status: int = 201, query: str = "") -> Any:
    """Publish a body."""
    answer = await api.http.post(EVENTS + query, content=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.mark.parametrize("way", [{}, {"Expect": "100-continue"}])
@pytest.mark.parametrize(
    ("coding", "pack"), [("gzip", gzip.compress), ("X-GZIP", gzip.compress), ("deflate", zlib.compress)]
)
async def test_a_packed_body_is_unpacked(api: Api, coding: str, pack: Any, way: dict[str, str]) -> None:
    """Gzip and deflate are taken, by the shortcut and by the route; several members are one body."""
    body = pack(orjson.dumps(output(text="one")) + b"\n")
    if coding == "gzip":
        body += pack(orjson.dumps(output(text="two")) + b"\n")
    receipt = await send(api, body, {**LINES, "Content-Encoding": coding, **way})
    assert receipt["accepted"] == (2 if coding == "gzip" else 1)


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        ("br", b"x", 415),
        ("gzip, gzip", b"x", 415),
        ("gzip", b"not gzip", 400),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-9], 400),
        ("gzip", b"", 400),
        ("gzip", BOMB, 413),
    ],
)
async def test_a_packed_body_keeps_to_the_rules(api: Api, coding: str, body: bytes, status: int) -> None:
    """Another coding is refused with those that are taken, a broken body as malformed, a bomb by its size."""
    answer = await api.http.post(EVENTS, content=body, headers={**JSON, "Content-Encoding": coding})
    assert answer.status_code == status
    assert answer.headers.get("Accept-Encoding") == ("gzip, deflate" if status == 415 else None)


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson", "application/jsonlines"])
async def test_a_byte_order_mark_is_skipped(api: Api, kind: str) -> None:
    """What some editors and shells write in front of UTF-8 is none of the body."""
    body = b"\xef\xbb\xbf" + orjson.dumps(output()) + b"\r\n"
    assert (await send(api, body, {"Content-Type": kind}))["accepted"] == 1
    if kind != "application/json":  # files that were joined
        joined = body + b"\xef\xbb\xbf\r\n" + body
        assert (await send(api, joined, {"Content-Type": kind}))["accepted"] == 2


# Numbers


@pytest.mark.parametrize("digits", ["18446744073709551615", "-9223372036854775808", "1546130668394913822"])
async def test_numbers_of_64_bits_come_back(api: Api, digits: str) -> None:
    """Every whole number that 64 bits hold comes back with its digits."""
    body = b'{"topic":"a.b","payload":{"n":%s,"text":"12345678901234567890123"}}' % digits.encode()
    await send(api, body, JSON)
    answer = await api.http.get(EVENTS)
    assert f'"n":{digits},' in answer.text


LARGER = ["18446744073709551616", "-9223372036854775809", "19876543210987654321", "9" * 300]
FINER = [
    "0.1234567890123456789",
    "12345678901234567.89",
    "1e400",
    "-1E+400",
    "1e-400",
    "2.0e-323000",
    "3.14159265358979323846",
    "9007199254740993e0",
    "-9007199254740993E+1",
]


@pytest.mark.parametrize(
    "digits", ["0.30000000000000004", "-1.7976931348623157e308", "5e-324", "1.50000000000000000", "1e-7"]
)
async def test_decimals_that_a_double_tells_apart_come_back(api: Api, digits: str) -> None:
    """A decimal comes back as the same number; what only looks like one, in a text, is none."""
    text = ".................... 1.2.3.4.5.6.7.8.9.10 0.1234567890123456789, 1e-400 "
    await send(
        api, b'{"topic":"a.b","payload":{"n":%s,"text":"%s"}}' % (digits.encode(), text.encode()), JSON
    )
    (event,) = (await api.get(EVENTS))["events"]
    assert event["payload"] == {"n": float(digits), "text": text}


@pytest.mark.parametrize("digits", [*LARGER, *FINER])
async def test_other_numbers_are_refused(api: Api, digits: str) -> None:
    """A number that would come back as another one is refused, by the name of its field and its item."""
    for body, headers, index in (
        ('{"topic":"a.b","payload":{"x":[{"wei":%s}]}}', JSON, None),
        ('[{"topic":"a.b"},{"topic":"a.b","payload":{"x":[{"wei":%s}]}}]', JSON, 1),
        ('{"topic":"a.b"}\n\n{"topic":"a.b","payload":{"x":[{"wei":%s}]}}', LINES, 1),
    ):
        problem = await send(api, (body % digits).encode(), headers, 422)
        (error,) = problem["errors"]
        assert (error["field"], error.get("index")) == ("payload.x[0].wei", index)
        assert "as text" in error["detail"]
    assert (await api.get(EVENTS))["events"] == []


@pytest.mark.parametrize("digits", FINER)
async def test_the_lenient_way_keeps_the_digits_of_other_numbers(api: Api, digits: str) -> None:
    """They become text, so that nothing is rounded, and the answer says so."""
    body = b'[{"topic":"a.b"},{"topic":"a.b","payload":{"x":[{"n":%s}]}}]' % digits.encode()
    receipt = await send(api, body, JSON, query="?lenient=true")
    event, _ = (await api.get(EVENTS))["events"]
    assert event["payload"]["x"][0]["n"] == digits
    (mended,) = receipt["mended"]
    assert (mended["index"], mended["changed"][0].split(":")[0]) == (1, "payload.x.0.n")


async def test_a_key_stands_for_the_digits_too(api: Api) -> None:
    """Two amounts under one key are told apart, however little they differ."""
    for amount, status in (("0.30000000000000004", 201), ("0.30000000000000004", 201), ("0.3", 409)):
        await send(api, b'{"topic":"a.b","key":"k","payload":{"n":%s}}' % amount.encode(), JSON, status)


# Half characters

HALF = (
    b'{"type":"task_status","task_id":"half","status":"completed",'
    b'"result":{"stdout":"done \\ud83d","cost_usd":0.01}}'
)


async def test_half_a_character_is_refused_unless_that_is_asked_for(api: Api) -> None:
    """The strict way names line and field; the lenient one keeps the outcome, and says what it changed."""
    good = orjson.dumps(output("half", "all fine"))
    problem = await send(api, good + b"\n" + HALF, LINES, 400)
    assert problem["detail"] == "line 2 is not valid JSON: result.stdout has half a character (U+D83D alone)"
    receipt = await send(api, good + b"\n" + HALF, LINES, query="?lenient=true")
    (mended,) = receipt["mended"]
    assert (receipt["accepted"], mended["index"]) == (2, 1)
    assert [note.split(":")[0] for note in mended["changed"]] == ["payload.result.stdout"]
    task = await api.get("/api/v1/tasks/half")
    assert (task["status"], task["cost_usd"], task["result"]["stdout"]) == ("completed", 0.01, "done \ufffd")


async def test_the_lenient_way_leaves_out_what_is_wrong(api: Api) -> None:
    """A bad field is left out and named, of either form; what is right has no note."""
    bad = {"type": "task_status", "task_id": "1", "status": "completed", "result": {"cost_usd": "dear"}}
    items = [output("1"), bad, {"topic": "a.b", "payload": {"n": 10**30}, "nonsense": 1}]
    body = b"[" + b",".join([orjson.dumps(one) for one in items[:2]])
    body += b',{"topic":"a.b","payload":{"n":1' + b"0" * 30 + b'},"nonsense":1}]'
    receipt = await send(api, body, JSON, query="?lenient=true")
    changed = {one["index"]: one["changed"][0] for one in receipt["mended"]}
    assert set(changed) == {1, 2}
    assert changed[1].startswith("payload.result.cost_usd: ")
    assert changed[2].startswith("nonsense: ")
    assert (await api.get("/api/v1/tasks/1"))["status"] == "completed"
    again = await send(api, body, {**JSON, "Idempotency-Key": "k"}, query="?lenient=true")
    assert (
        again["ids"]
        == (await send(api, body, {**JSON, "Idempotency-Key": "k"}, query="?lenient=true"))["ids"]
    )
    assert (await send(api, b"5", JSON, 422, "?lenient=true"))["errors"]


# What one request may cost


async def test_unknown_fields_without_end_cost_little(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scope is asked before a byte of the body is parsed; who may publish is told of a hundred fields."""
    api = await start(auth={"keys": (key("reader", "r", "read"), key("writer", "w", "publish"))})
    body = b"{" + b",".join(b'"%x":0' % number for number in range(200_000)) + b"}"
    parsed: list[int] = []
    real = bodies.ItemReader.feed

    def feed(self: bodies.ItemReader, data: bytes) -> None:
        parsed.append(len(data))
        real(self, data)

    monkeypatch.setattr(bodies.ItemReader, "feed", feed)
    await send(api, body, {**JSON, "X-API-Key": "r"}, 403)
    assert parsed == []
    answer = await api.http.post(EVENTS, content=body, headers={**JSON, "X-API-Key": "w"})
    assert len(answer.json()["errors"]) == 100
    assert len(answer.content) < 100_000


async def test_a_large_body_is_parsed_beside_the_loop(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes long to parse, and to check, runs in a thread."""
    used: list[str] = []
    real = trio.to_thread.run_sync

    async def noted(call: Any, *arguments: Any, **more: Any) -> Any:
        used.append(getattr(call, "__name__", "partial"))
        return await real(call, *arguments, **more)

    monkeypatch.setattr(trio.to_thread, "run_sync", noted)
    await send(api, orjson.dumps([output(text="x" * 500)] * 1000), JSON)
    assert {"end", "partial"} <= set(used)


# Keys of idempotency


async def test_idempotency_keys_belong_to_their_publisher(start: Start) -> None:
    """Nobody can use up, or probe for, the keys of another publisher."""
    api = await start(auth={"keys": (key("one", "1", "read", "publish"), key("two", "2", "publish"))})
    one, two = {"X-API-Key": "1"}, {"X-API-Key": "2"}
    await api.publish({**output(), "key": "job/1"}, headers=one)
    await api.publish({**output(text="other"), "key": "job/1"}, headers=two)
    await api.publish(output(), headers={**one, "Idempotency-Key": "nightly"})
    await api.publish(output(text="other"), headers={**two, "Idempotency-Key": "nightly"})
    problem = await api.publish({**output(text="new"), "key": "job/1"}, headers=one, status=409)
    assert problem["detail"] == "item 0: the key 'job/1' was used for a different event"
    assert len((await api.get(f"{EVENTS}?channel=task:*", headers=one))["events"]) == 4


@pytest.mark.parametrize(
    "change", [{"sender": "B"}, {"timestamp": "2026-02-02T00:00:00Z"}, {"correlation_id": "c"}]
)
async def test_a_key_stands_for_all_that_was_said(api: Api, change: dict[str, str]) -> None:
    """The same key with another sender, time or correlation is a conflict, not a retry."""
    item = {**output(), "key": "k", "sender": "A", "timestamp": "2026-01-01T00:00:00Z"}
    await api.publish(item)
    await api.publish(item)
    await api.publish({**item, **change}, status=409)


# What every answer says


async def test_every_answer_has_its_headers(api: Api) -> None:
    """Answers, refusals and the page keep to themselves what other origins have no business with."""
    for path in ("/", "/api/health", "/api/v1/tasks", "/nowhere", "/api/v1/tasks?x=1", "/openapi.json"):
        headers = (await api.http.get(path)).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Origin" in headers["Vary"]
    assert "connect-src 'self';" in (await api.http.get("/")).headers["Content-Security-Policy"]


async def test_a_preflight_allows_what_clients_send(start: Start) -> None:
    """What clients of streams, tracers and frameworks put beside a key is allowed to a configured page."""
    api = await start(server={"cors_origins": ("http://localhost:3005",)})
    wanted = "authorization,cache-control,last-event-id,x-requested-with,traceparent,content-encoding"
    answer = await api.http.options(
        "/api/v1/events/stream",
        headers={
            "Origin": "http://localhost:3005",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": wanted,
        },
    )
    allowed = {name.strip().lower() for name in answer.headers["Access-Control-Allow-Headers"].split(",")}
    assert set(wanted.split(",")) <= allowed


async def test_wrong_credentials_are_counted(start: Start, tmp_path: Path) -> None:
    """A wrong key or ticket is counted and logged with its address; a request without any is not."""
    api = await start(auth={"keys": (key("reader", "r", "read"),)})
    await api.problem("GET", "/api/v1/tasks")
    await api.problem("GET", "/api/v1/tasks", headers={"X-API-Key": "x"})
    await api.problem("GET", "/api/v1/tasks?ticket=x")
    text = (await api.http.get("/metrics", headers={"X-API-Key": "r"})).text
    assert "heliograph_refused_credentials_total 2.0" in text
