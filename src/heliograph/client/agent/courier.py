"""The courier: carries the items of this process from its threads to the service.

``put`` appends to a spool on disk, in the calling thread: one short write into the page cache, after which a
``kill -9`` loses nothing of it. One background thread does the networking: it sends the spool in order
through the outbox, as ``heliograph exec`` does, and then the spools of dead processes.

There is one courier per process. The child of a fork begins with none: it closes its copies of the parent's
files, and its first item makes a courier of its own. At the end of the program the thread has
``exit_seconds`` to send the rest; unsent items stay on disk.

One limit: a killed process leaves its spool to the next process that looks for spools, so its last items
arrive when another program on the machine uses the client, or at ``heliograph publish --spooled``.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from heliograph.client.agent.settings import ClientSettings
from heliograph.client.spool import About, Spool

if TYPE_CHECKING:
    from heliograph.client.agent.delivery import Sender

THREAD_NAME = "heliograph"
PAUSE_SECONDS = 30.0
"""Seconds between two tries to make a spool."""

START_SECONDS = 10.0
"""Seconds for the thread to import its modules; a machine may be busy."""

log = logging.getLogger("heliograph")


class Courier:
    """Takes items from every thread of this process and sends them.

    Args:
        settings: The settings of this process.

    Raises:
        OSError: Its spool can't be made.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings
        self._spool = Spool.create(settings.spools, About(settings.url, "", " ".join(sys.argv[:1])))
        self._room = threading.Condition()  # guards appending; notified of acknowledgements
        self._open: dict[str, Callable[[], object]] = {}
        self._delivery: Sender | None = None
        self._ready = threading.Event()
        self._refused = False
        self._complained = False
        self._thread = threading.Thread(target=self._main, name=THREAD_NAME, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is ending: further items wait on disk
            self._ready.set()

    @property
    def thread(self) -> threading.Thread:
        """The thread that sends."""
        return self._thread

    def put(self, items: Iterable[Mapping[str, Any]], *, essential: bool = False) -> bool:
        """Keep items; never waits for the network, unless ``overflow`` is ``wait`` and the spool is full.

        Args:
            items: The items in the event form, in values that ``orjson`` can encode.
            essential: Whether to keep them even if the spool is full, as a task's beginning and end.

        Returns:
            Whether they were kept.
        """
        with self._room:
            while not essential and self._spool.unsent >= self.settings.spool_bytes:
                here = threading.current_thread() is self._thread
                if self.settings.overflow == "drop" or here or not self._thread.is_alive():
                    return False
                self._room.wait(1.0)
            try:
                self._spool.append(items)
            except OSError as error:
                self._complain(error)
                return False
        if self._delivery is not None:
            self._delivery.look_soon()
        return True

    def attach(self, path: str, data: bytes) -> bool:
        """Keep bytes to be put at a path of the service; never waits for the network.

        Returns:
            Whether they were kept; false if the spool would exceed its limit.
        """
        with self._room:
            waiting = self._spool.unsent + sum(file.stat().st_size for file in self._spool.attachments())
            if waiting + len(data) > self.settings.spool_bytes:
                log.warning("heliograph: %s is dropped, as too much waits for the service", path)
                return False
            try:
                self._spool.attach(path, data)
            except OSError as error:
                self._complain(error)
                return False
        if self._delivery is not None:
            self._delivery.look_soon()
        return True

    def begin(self, task_id: str, beat: Callable[[], object]) -> None:
        """Note that a task has begun; ``beat`` is called now and then until it ends."""
        with self._room:
            self._open[task_id] = beat
            self._note_open()

    def end(self, task_id: str) -> None:
        """Note that a task ends; call this before putting its end, or a later process may end it again."""
        with self._room:
            if self._open.pop(task_id, None) is not None:
                self._note_open()

    def flush(self, timeout: float) -> bool:
        """Wait until the service has all that was put so far.

        Args:
            timeout: The longest wait, in seconds; there is no wait for a service that refuses.

        Returns:
            Whether the service has everything.
        """
        with self._room:
            wanted = self._spool.appended

            def is_sent() -> bool:
                return self._spool.acknowledged >= wanted and not self._spool.attachments()

            self._room.wait_for(lambda: is_sent() or self._refused, timeout)
            return is_sent()

    def close(self, timeout: float) -> None:
        """Send the rest, for at most ``timeout`` seconds, and end the thread."""
        self._ready.wait(START_SECONDS)
        if self._delivery is not None:
            self._delivery.finish_soon(timeout)
        if self._thread.ident is not None:
            self._thread.join(timeout + 1.0)
        if self._thread.is_alive():  # it hangs in a system call
            log.warning("heliograph: the thread that sends does not end")
        else:
            self._spool.close()

    def abandon(self) -> None:
        """Leave the spool to the parent; called in the child of a fork."""
        self._spool.close()

    def settle(self) -> None:
        """Wait, before a fork, until the thread has imported its modules: the child can't finish that."""
        if threading.current_thread() is not self._thread:
            self._ready.wait(START_SECONDS)

    def _note_open(self) -> None:
        try:
            self._spool.note_open(self._open)
        except OSError as error:
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            log.warning("heliograph: %s: %s; what the tasks say is lost", self._spool.folder, error.strerror)

    # The rest runs in the thread.

    def _main(self) -> None:
        try:
            from heliograph.client.agent.delivery import Sender  # imports the libraries for the network

            Sender(self._spool, self.settings, self._beats, self._progress).run(self._begin_delivery)
        finally:
            self._ready.set()
            self._progress(refused=True)

    def _begin_delivery(self, delivery: Sender) -> None:
        self._delivery = delivery
        self._ready.set()

    def _beats(self) -> list[Callable[[], object]]:
        with self._room:
            return list(self._open.values())

    def _progress(self, *, refused: bool) -> None:
        self._refused = refused
        with self._room:
            self._room.notify_all()


# One per process.

_settings: ClientSettings | None = None
_courier: Courier | None = None
_guard = threading.RLock()
_silent_until = 0.0


def settings() -> ClientSettings:
    """Return the settings of this process's publishing."""
    return _settings or ClientSettings()


def use(chosen: ClientSettings) -> None:
    """Publish with these settings from now on; earlier items are sent with the settings before."""
    global _settings, _silent_until
    close()
    _settings, _silent_until = chosen, 0.0


def courier() -> Courier | None:
    """Return this process's courier, made at the first call; ``None`` if it publishes nothing."""
    if _courier is not None:
        return _courier
    return _make()


def _make() -> Courier | None:
    global _courier, _silent_until
    with _guard:
        if _courier is None and settings().enabled and time.monotonic() >= _silent_until:
            try:
                _courier = Courier(settings())
            except OSError as error:
                _silent_until = time.monotonic() + PAUSE_SECONDS
                log.warning("heliograph: %s: %s; what the tasks say is lost", settings().spools, error)
        return _courier


def existing() -> Courier | None:
    """Return this process's courier if there is one."""
    return _courier


def flush(timeout: float = 10.0) -> bool:
    """Wait until the service has everything that this process has published so far.

    It blocks its thread: under asyncio or Trio call it in a worker thread.

    Args:
        timeout: The longest wait, in seconds; there is no wait for a service that refuses.

    Returns:
        Whether the service has everything.
    """
    return True if _courier is None else _courier.flush(timeout)


def close(timeout: float | None = None) -> None:
    """Send the rest and end the background thread; later items start a new one.

    The end of the program does this by itself.

    Args:
        timeout: The longest wait, in seconds; by default ``exit_seconds``. Unsent items then stay on disk.
    """
    global _courier
    with _guard:
        leaving, _courier = _courier, None
    if leaving is not None:
        leaving.close(leaving.settings.exit_seconds if timeout is None else timeout)


def _before_fork() -> None:
    _guard.acquire()
    if _courier is not None:
        _courier.settle()


def _after_fork() -> None:
    global _courier, _guard
    _guard = threading.RLock()
    if _courier is not None:
        _courier.abandon()
        _courier = None


atexit.register(close)
os.register_at_fork(before=_before_fork, after_in_parent=lambda: _guard.release(), after_in_child=_after_fork)
