"""Artifacts of runs over HTTP: kept whole, given whole or in part, checked, listed and removed."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from tests.http.conftest import Api, Start

RUN = "/api/v1/workflows/w/runs/r/artifacts"


@pytest.fixture
async def api(start: Start, tmp_path: Path) -> Api:
    """Start a service that takes small artifacts."""
    return await start(artifacts={"folder": tmp_path / "artifacts", "max_bytes": 2048})


async def test_an_artifact_is_kept_listed_and_removed(api: Api, tmp_path: Path) -> None:
    """What was put is given back byte by byte, with the type of its key's end, until it is deleted."""
    data = bytes(range(256))
    answer = await api.http.put(f"{RUN}/picture.png", content=data)
    assert answer.status_code == 201
    kept = answer.json()
    assert (kept["key"], kept["size"], kept["content_type"]) == ("picture.png", 256, "image/png")
    assert kept["sha256"] == hashlib.sha256(data).hexdigest()
    found = await api.http.get(f"{RUN}/picture.png")
    assert (found.content, found.headers["content-type"]) == (data, "image/png")
    assert found.headers["etag"] == f'"{kept["etag"]}"'
    assert found.headers["x-content-type-options"] == "nosniff"
    await api.http.put(f"{RUN}/a.json", content=b"{}")
    listed = await api.get(RUN)
    assert [one["key"] for one in listed["artifacts"]] == ["a.json", "picture.png"]
    assert listed["total"] == 2
    assert sorted(path.name for path in (tmp_path / "artifacts" / "w" / "r").iterdir()) == [
        "a.json",
        "picture.png",
    ]
    assert (await api.http.delete(f"{RUN}/picture.png")).status_code == 204
    problem = await api.problem("GET", f"{RUN}/picture.png")
    assert (problem["status"], problem["code"]) == (404, "artifact_not_found")
    assert (await api.problem("DELETE", f"{RUN}/picture.png"))["status"] == 404
    assert (await api.get(RUN))["total"] == 1


async def test_a_later_one_replaces_an_earlier_one(api: Api) -> None:
    """The newest is given, under another ETag."""
    tags = []
    for text in (b"one", b"another"):
        await api.http.put(f"{RUN}/a.txt", content=text)
        answer = await api.http.get(f"{RUN}/a.txt")
        assert answer.content == text
        tags.append(answer.headers["etag"])
    assert tags[0] != tags[1]


@pytest.mark.parametrize(
    ("asked", "status", "content", "told"),
    [
        ("bytes=0-2", 206, b"012", "bytes 0-2/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=0-0,5-6", 200, b"0123456789", None),
        ("lines=0-2", 200, b"0123456789", None),
        ("nonsense", 200, b"0123456789", None),
        ("bytes=10-", 416, None, "bytes */10"),
    ],
)
async def test_ranges(api: Api, asked: str, status: int, content: bytes | None, told: str | None) -> None:
    """One range of bytes is given, what is no such range is passed over, one behind the end is refused."""
    await api.http.put(f"{RUN}/a.txt", content=b"0123456789")
    answer = await api.http.get(f"{RUN}/a.txt", headers={"Range": asked})
    assert answer.status_code == status
    if content is not None:
        assert answer.content == content
        assert answer.headers.get("content-range") == told


async def test_what_a_client_has(api: Api) -> None:
    """With its ETag it is answered 304; a range counts only for the ETag that it was asked for."""
    await api.http.put(f"{RUN}/a.txt", content=b"0123456789")
    path = f"{RUN}/a.txt"
    tag = (await api.http.get(path)).headers["etag"]
    assert (await api.http.get(path, headers={"If-None-Match": tag})).status_code == 304
    part = {"Range": "bytes=0-1"}
    assert (await api.http.get(path, headers={**part, "If-Range": tag})).status_code == 206
    assert (await api.http.get(path, headers={**part, "If-Range": '"other"'})).content == b"0123456789"
    head = await api.http.head(path)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "10", b"")


async def test_what_is_put_is_checked(api: Api) -> None:
    """Over the limit, under a bad name, or with another digest nothing is kept."""
    assert (await api.problem("PUT", f"{RUN}/a.txt", content=b"x" * 2049))["status"] == 413
    for key in (".hidden", "a%00b", "%2e%2e", "x" * 201, "a%5Cb"):
        problem = await api.problem("PUT", f"{RUN}/{key}", content=b"x")
        assert (problem["status"], problem["errors"][0]["field"]) == (422, "key"), key
    for path in ("/api/v1/workflows/.w/runs/r", "/api/v1/workflows/w/runs/%2e%2e"):
        assert (await api.http.put(f"{path}/artifacts/a.txt", content=b"x")).status_code in {404, 422}
    good = f"sha-256=:{base64.b64encode(hashlib.sha256(b'x').digest()).decode()}:"
    headers = {"Content-Digest": good}
    assert (await api.problem("PUT", f"{RUN}/a.txt", content=b"y", headers=headers))["status"] == 422
    assert (await api.get(RUN))["total"] == 0
    assert (await api.http.put(f"{RUN}/a.txt", content=b"x", headers=headers)).status_code == 201


async def test_a_page_that_is_put_does_not_run(api: Api) -> None:
    """What a browser would run is given as bytes, in a sandbox."""
    await api.http.put(f"{RUN}/evil.html", content=b"<script>alert(1)</script>")
    answer = await api.http.get(f"{RUN}/evil.html")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "sandbox" in answer.headers["content-security-policy"]
