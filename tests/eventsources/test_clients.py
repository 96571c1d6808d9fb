"""The event stream as common clients read it: cut again and again, they lose nothing and hear nothing twice.

The clients of pages come from npm, for this test only; where there is no Node or no registry, the test says
so and is skipped.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
from tests.conformance.clients import publish, until_metric
from tests.conformance.conftest import Launch, embedded, form, launch
from tests.proxy import Proxy

from heliograph.http.streams import sse

__all__ = ["form", "launch"]

HERE = Path(__file__).parent
OF_PAGES = {
    "eventsource4": "eventsource4@npm:eventsource@4",
    "eventsource5": "eventsource5@npm:eventsource@5",
    "event-source-polyfill": "event-source-polyfill@1.0.31",
    "@microsoft/fetch-event-source": "@microsoft/fetch-event-source@2.0.1",
}
OF_PROGRAMS = {
    "httpx-sse": "httpx_sse",
    "sseclient-py": "sseclient",
    "aiohttp-sse-client2": "aiohttp_sse_client2",
}
NEEDS_NODE = {"eventsource5": 22}
"""The oldest Node that a client runs on, where that is not any."""

HIDDEN = {"topic": "hidden.one", "payload": {}}
OWN = {"open", "keepalive", "gap", "reset", "reconnect"}


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the clients of pages."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("Node is not installed, which runs the clients of pages")
    folder = tmp_path_factory.mktemp("eventsources")
    installed = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), *OF_PAGES.values()],
        capture_output=True,
        timeout=120,
        check=False,
    )
    if installed.returncode:
        pytest.skip(f"npm does not give the clients of pages: {installed.stderr.decode()[-200:]}")
    return folder


def command(client: str, url: str, request: pytest.FixtureRequest) -> list[str]:
    """Return the command that watches with a client; skip the test where it can't be had."""
    if client in OF_PAGES:
        packages = request.getfixturevalue("packages")
        node = subprocess.run(["node", "--version"], capture_output=True, check=True).stdout.decode()
        if int(node.removeprefix("v").partition(".")[0]) < NEEDS_NODE.get(client, 0):
            pytest.skip(f"{client} needs Node {NEEDS_NODE[client]}; this is {node.strip()}")
        return ["node", str(HERE / "watch.mjs"), client, url, str(packages)]
    if importlib.util.find_spec(OF_PROGRAMS[client]) is None:
        pytest.skip(f"{client} is not installed")
    return [sys.executable, str(HERE / "watch.py"), client, url]


@asynccontextmanager
async def watching(words: list[str]) -> AsyncIterator[list[dict[str, Any]]]:
    """Run a client; yields what it has heard by now."""
    heard: list[dict[str, Any]] = []

    async def read(process: trio.Process) -> None:
        rest = b""
        assert process.stdout is not None
        async for data in process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            heard.extend(map(json.loads, lines))

    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
        process: trio.Process = await nursery.start(run)
        nursery.start_soon(read, process)
        yield heard
        process.kill()


async def until_heard(heard: list[dict[str, Any]], count: int) -> list[int]:
    """Wait until this many ticks were heard; return their numbers."""
    with trio.fail_after(30):
        while len(found := numbers(heard)) < count:  # noqa: ASYNC110 - another process hears them
            await trio.sleep(0.05)
    return found


def numbers(heard: list[dict[str, Any]]) -> list[int]:
    """Return the numbers of the ticks."""
    return [one["data"]["payload"]["n"] for one in heard if one["data"]["topic"] == "load.tick"]


def tick(number: int) -> dict[str, Any]:
    """Make a tick."""
    return {"topic": "load.tick", "payload": {"n": number}}


@embedded
@pytest.mark.parametrize("names", ["on", "off"])
@pytest.mark.parametrize("client", [*OF_PAGES, *OF_PROGRAMS])
async def test_a_common_client_loses_nothing(
    client: str, names: str, launch: Launch, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Cut before its first event and after others, it is given what was published meanwhile, in order."""
    monkeypatch.setattr(sse, "RECONNECT_MS", 200)
    url = (await launch(streams={"keepalive_seconds": 0.2})).url
    proxy = Proxy(urlsplit(url).port or 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        path = f"/api/v1/events/stream?topic=load.*&names={names}"
        words = command(client, f"http://127.0.0.1:{proxy.port}{path}", request)
        async with watching(words) as heard:
            await until_metric(url, 1, "streams", transport="sse")
            with trio.fail_after(30):
                while not heard:  # noqa: ASYNC110 - another process hears
                    await trio.sleep(0.05)
            for round_ in range(3):
                proxy.cut()
                await publish(
                    url, {"topic": "hidden.one", "payload": {}}, tick(2 * round_), tick(2 * round_ + 1)
                )
                assert await until_heard(heard, 2 * round_ + 2) == list(range(2 * round_ + 2))
                await until_metric(url, 1, "streams", transport="sse")
        kinds = {one["type"] for one in heard}
        assert kinds <= (OWN | {"load.tick"} if names == "on" else {"message"})
        assert {"open", "load.tick"} <= {one["data"]["topic"] for one in heard}
        assert all(one["id"] for one in heard)
        nursery.cancel_scope.cancel()
