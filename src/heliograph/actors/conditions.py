"""Waiting for a condition on state that another task changes."""

from __future__ import annotations

from collections.abc import Callable

import trio


class Conditions:
    """The conditions that tasks wait for; mostly there are none, and ``look`` costs nothing."""

    def __init__(self) -> None:
        self._waiting: dict[trio.Event, Callable[[], bool]] = {}

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds."""
        while not condition():
            happened = trio.Event()
            self._waiting[happened] = condition
            try:
                await happened.wait()
            finally:
                del self._waiting[happened]

    def look(self) -> None:
        """Wake the tasks whose condition holds now; to be called after each change."""
        for happened, condition in self._waiting.items():
            if condition():
                happened.set()
