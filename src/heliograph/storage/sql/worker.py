"""Threads that stay, for the calls of databases.

For each call ``trio.to_thread`` takes a thread from a cache, names it twice and copies the caller's context:
for a question about one row that takes longer than the row. A worker waits for its next job by a queue, which
holds one job at most, since whoever hands jobs to it waits for each.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import outcome
import trio

Job = Callable[[], Any]
Done = Callable[[outcome.Outcome[Any]], object]


class Worker:
    """A thread that does one job at a time; it must be made within a Trio run.

    Args:
        name: The name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[Job, Done] | None] = SimpleQueue()
        token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=_work, args=(self._jobs, token), name=name, daemon=True)
        self._thread.start()

    def hand(self, job: Job, done: Done) -> None:
        """Have a job done in the thread, and its outcome given to ``done`` in the event loop."""
        self._jobs.put((job, done))

    def end(self) -> None:
        """End the thread after the jobs that it was handed."""
        self._jobs.put(None)

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()


def _work(jobs: SimpleQueue[tuple[Job, Done] | None], token: trio.lowlevel.TrioToken) -> None:
    while (handed := jobs.get()) is not None:
        job, done = handed
        found = outcome.capture(job)
        with suppress(trio.RunFinishedError):  # then nobody waits
            token.run_sync_soon(done, found)
        del handed, job, done, found  # a thread that waits must not hold the last answer
