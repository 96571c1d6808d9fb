"""Watches an event stream with one of the clients that programs use; ``watch.mjs`` does with those of pages.

Usage: python watch.py CLIENT URL
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import httpx


def hear(kind: str, event_id: str, data: str) -> None:
    """Print an event."""
    sys.stdout.write(json.dumps({"type": kind, "id": event_id, "data": json.loads(data)}) + "\n")
    sys.stdout.flush()


def by_httpx_sse(url: str) -> None:
    """Read by httpx-sse, which leaves coming back to its user."""
    from httpx_sse import connect_sse

    last, pause = "", 0.1
    while True:
        try:
            with (
                httpx.Client(timeout=None) as client,
                connect_sse(client, "GET", url, headers={"Last-Event-ID": last} if last else {}) as source,
            ):
                for event in source.iter_sse():
                    last, pause = event.id, (event.retry or 100) / 1000
                    hear(event.event, event.id, event.data)
        except httpx.TransportError:
            time.sleep(pause)


def by_sseclient(url: str) -> None:
    """Read by sseclient-py, which only parses."""
    from sseclient import SSEClient

    last = ""
    while True:
        try:
            with httpx.stream(
                "GET", url, timeout=None, headers={"Last-Event-ID": last} if last else {}
            ) as response:
                for event in SSEClient(response.iter_bytes()).events():
                    last = event.id or ""
                    hear(event.event, last, event.data)
        except httpx.TransportError:
            time.sleep(0.1)


async def by_aiohttp(url: str) -> None:
    """Read by aiohttp-sse-client2, which comes back by itself after an end, but not after a broken body."""
    from aiohttp import ClientPayloadError
    from aiohttp_sse_client2.client import EventSource  # type: ignore[import-untyped]

    last = ""
    while True:
        headers = {"Last-Event-ID": last} if last else {}
        try:
            async with EventSource(url, max_connect_retry=100, headers=headers) as source:
                async for event in source:
                    last = event.last_event_id
                    hear(event.type or "message", last, event.data)
        except ClientPayloadError:
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    name, address = sys.argv[1:]
    if name == "aiohttp-sse-client2":
        asyncio.run(by_aiohttp(address))
    else:
        {"httpx-sse": by_httpx_sse, "sseclient-py": by_sseclient}[name](address)
