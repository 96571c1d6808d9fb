"""REST, WebSocket and SSE over Quart-Trio and our own connections."""
