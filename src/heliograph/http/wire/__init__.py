"""The wire: listener, connections, heads, frames, and the sinks that write to sockets."""
