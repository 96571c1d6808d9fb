"""The harness's view of a server: how to start it, and how to speak to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import attrs
import orjson

from heliograph.client.load import Dialect

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "bench"
"""The folder of what is made once and used again: the compiled floor, the package ws. Git ignores it."""


@attrs.frozen
class Command:
    """A program to start: its arguments and what it needs in the environment."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = attrs.Factory(dict)


class Peer(Protocol):
    """A server that can be measured."""

    @property
    def name(self) -> str:
        """The server's name in the table."""

    @property
    def transports(self) -> tuple[str, ...]:
        """The protocols that it speaks, of ``ws`` and ``sse``."""

    def missing(self) -> str | None:
        """Make ready what is made once; return why this peer can't run here, or ``None``."""

    def version(self) -> str:
        """Name what is measured, with versions."""

    def command(self, port: int, folder: Path) -> Command:
        """Say how to start it on a port, with a folder for its files."""

    def dialect(self, host: str) -> Dialect:
        """Say how to speak to it."""

    def channel(self, number: int) -> str:
        """Name a channel."""


@attrs.frozen
class PlainDialect:
    """The dialect of the peers: the path names the channel, and one JSON list is published."""

    host: str
    numbers: ClassVar[bool] = False

    def open(self, transport: str, channel: str, cursor: str | None) -> bytes:
        """Write the request that opens a stream; there are no cursors."""
        upgrade = (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: aGVsaW9ncmFwaC1sb2FkIQ==\r\n"
            if transport == "ws"
            else "Accept: text/event-stream\r\n"
        )
        return f"GET /{transport}/{channel} HTTP/1.1\r\nHost: {self.host}\r\n{upgrade}\r\n".encode()

    def subscribe(self, channel: str, cursor: str | None) -> None:
        """Send nothing more: the path has said it."""

    def publish(self, items: Sequence[tuple[str, int, str]], key: str) -> tuple[bytes, int]:
        """Write one request with all items."""
        body = orjson.dumps(
            [{"channel": channel, "data": numbered(seq, text)} for channel, seq, text in items]
        )
        return self.post("/publish", body, "application/json"), 1

    def post(self, path: str, body: bytes, kind: str) -> bytes:
        """Write a POST request."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self.host}\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def numbered(seq: int, text: str) -> str:
    """Make a peer's message: as long as the text, but with the number that the peer does not give itself."""
    head = f'{{"seq":{seq},"text":"'
    return f'{head}{text[: max(30, len(text) - len(head) - 2)]}"}}'
