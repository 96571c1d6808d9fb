"""The demo fleet."""

from heliograph.client.demo.fleet import run

__all__ = ["run"]
