"""Streams: what a connection becomes after its handshake, over WebSocket and SSE."""

from heliograph.http.streams.lapsing import KeyNews
from heliograph.http.streams.registry import StreamRegistry, drain
from heliograph.http.streams.sse import SseStream
from heliograph.http.streams.watching import WatchRequest
from heliograph.http.streams.websocket import WebSocketStream

__all__ = ["KeyNews", "SseStream", "StreamRegistry", "WatchRequest", "WebSocketStream", "drain"]
