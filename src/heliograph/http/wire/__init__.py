"""The wire: listener, connections, heads, frames, and the sinks that write to sockets."""

from heliograph.http.wire.connection import Connection, Served, Shortcut, Successor
from heliograph.http.wire.head import Head
from heliograph.http.wire.lot import open_lot
from heliograph.http.wire.server import Server, open_listener
from heliograph.http.wire.sink import Sink
from heliograph.http.wire.tls import Tls

__all__ = [
    "Connection",
    "Head",
    "Served",
    "Server",
    "Shortcut",
    "Sink",
    "Successor",
    "Tls",
    "open_listener",
    "open_lot",
]
