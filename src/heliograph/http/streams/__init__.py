"""Streams: what a connection becomes after its handshake, over WebSocket and SSE."""
