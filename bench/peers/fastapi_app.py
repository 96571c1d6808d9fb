"""FastAPI on uvicorn, as its documentation does it: a set of WebSockets and a loop over them.

Run as ``python -m bench.peers.fastapi_app PORT``. Event streams go through sse-starlette with a queue per
client.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from sse_starlette.sse import EventSourceResponse

app = FastAPI()
sockets: defaultdict[str, set[WebSocket]] = defaultdict(set)
queues: defaultdict[str, set[asyncio.Queue[str]]] = defaultdict(set)


@app.websocket("/ws/{channel}")
async def watch(socket: WebSocket, channel: str) -> None:
    """Keep the socket in the channel's set until it goes away."""
    await socket.accept()
    sockets[channel].add(socket)
    try:
        while True:
            await socket.receive_text()
    except WebSocketDisconnect:
        pass
    finally:
        sockets[channel].discard(socket)


@app.get("/sse/{channel}")
async def follow(channel: str) -> EventSourceResponse:
    """Send what the client's own queue gets."""
    queue: asyncio.Queue[str] = asyncio.Queue()
    queues[channel].add(queue)

    async def events() -> AsyncIterator[dict[str, str]]:
        try:
            while True:
                yield {"data": await queue.get()}
        finally:
            queues[channel].discard(queue)

    return EventSourceResponse(events())


@app.post("/publish")
async def publish(request: Request) -> dict[str, int]:
    """Send each ``{"channel", "data"}`` to everyone who watches its channel."""
    items = await request.json()
    for item in items:
        for socket in list(sockets[item["channel"]]):
            await socket.send_text(item["data"])
        for queue in queues[item["channel"]]:
            queue.put_nowait(item["data"])
    return {"accepted": len(items)}


if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",  # its default, and the fastest of its three
        ws_per_message_deflate=False,
        backlog=4096,
        log_level="warning",
        access_log=False,
    )
