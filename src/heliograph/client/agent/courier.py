"""The courier: what this process says, from the thread that says it to the service.

``put`` appends to a spool on disk, in the thread that calls it: one short write into the page cache, and then
a ``kill -9`` loses nothing of it. The network is the business of one thread, which sends the spool in order
through the outbox, as ``heliograph exec`` does, and after that the spools of processes that are gone.

There is one courier per process. The child of a fork begins with none: it closes its copies of the parent's
files, and the first line that it says makes a courier of its own. At the end of the program the thread has
``exit_seconds`` to send the rest; what it can't send stays on disk.

A limit of this: a process that is killed leaves its spool to the next one that looks, so what its last
moments said arrives when another program on the machine uses the client, or at ``heliograph publish
--spooled``.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from heliograph.client.agent.settings import Settings
from heliograph.client.spool import About, Spool

if TYPE_CHECKING:
    import trio

    from heliograph.client.api import Client
    from heliograph.client.outbox import Outbox

THREAD_NAME = "heliograph"
LOOK_AROUND_SECONDS = 30.0
START_SECONDS = 10.0
"""How long importing what the thread needs may take, on a machine that is busy."""

log = logging.getLogger("heliograph")


class Courier:
    """Takes items from every thread of this process and sends them.

    Args:
        settings: How.

    Raises:
        OSError: There is no place for its spool.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._spool = Spool.create(settings.spools, About(settings.url, "", " ".join(sys.argv[:1])))
        self._room = threading.Condition()  # guards appending; told when something was acknowledged
        self._open: dict[str, Callable[[], object]] = {}
        self._token: trio.lowlevel.TrioToken | None = None
        self._ready = threading.Event()
        self._awake = False
        self._refused = False
        self._complained = False
        self._finish: trio.Event | None = None
        self._patience = settings.exit_seconds
        self._thread = threading.Thread(target=self._main, name=THREAD_NAME, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is ending: what is still said waits on disk
            self._ready.set()

    @property
    def thread(self) -> threading.Thread:
        """The thread that sends."""
        return self._thread

    def put(self, items: Iterable[Mapping[str, Any]], *, essential: bool = False) -> bool:
        """Keep items; never waits for the network, unless ``overflow`` is ``wait`` and the spool is full.

        Args:
            items: In the event form, as ``orjson`` can write it.
            essential: Keep them even if the spool is full: a task's beginning and end.

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
        self._wake()
        return True

    def begin(self, task_id: str, beat: Callable[[], object]) -> None:
        """Note a task that has begun; ``beat`` is called now and then until it ends."""
        with self._room:
            self._open[task_id] = beat
            self._note_open()

    def end(self, task_id: str) -> None:
        """Note that a task is about to end; only then say so, or a later process might end it again."""
        with self._room:
            if self._open.pop(task_id, None) is not None:
                self._note_open()

    def flush(self, timeout: float) -> bool:
        """Wait until the service has all that was put so far.

        Args:
            timeout: In seconds; a service that refuses is not waited for.

        Returns:
            Whether it has.
        """
        with self._room:
            wanted = self._spool.appended
            self._room.wait_for(lambda: self._spool.acknowledged >= wanted or self._refused, timeout)
            return self._spool.acknowledged >= wanted

    def close(self, timeout: float) -> None:
        """Send the rest, at most for so many seconds, and end the thread."""
        self._patience = timeout
        self._ready.wait(START_SECONDS)
        if self._token is not None and self._finish is not None:
            self._in_thread(self._finish.set)
        if self._thread.ident is not None:
            self._thread.join(timeout + 1.0)
        if self._thread.is_alive():  # it hangs in a call of the system
            log.warning("heliograph: the thread that sends does not end")
        else:
            self._spool.close()

    def abandon(self) -> None:
        """In the child of a fork: leave everything to the parent."""
        self._spool.close()

    def _wake(self) -> None:
        if not self._awake and self._token is not None:
            self._awake = True
            self._in_thread(self._look)

    def _in_thread(self, call: Callable[[], object]) -> None:
        assert self._token is not None
        try:
            self._token.run_sync_soon(call)
        except Exception:  # RunFinishedError, without importing Trio here: the thread has ended
            self._token = None

    def _look(self) -> None:
        self._awake = False
        self._outbox.wake()

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
            import trio

            trio.run(self._deliver)
        finally:
            self._ready.set()
            with self._room:
                self._room.notify_all()

    async def _deliver(self) -> None:
        import trio

        from heliograph.client.api import Client
        from heliograph.client.outbox import Outbox

        trio.socket.set_custom_hostname_resolver(_resolver())
        async with Client(self.settings.url, self.settings.api_key) as client, trio.open_nursery() as nursery:
            self._outbox = outbox = Outbox(self._spool, client, self._say)
            self._finish = trio.Event()
            self._token = trio.lowlevel.current_trio_token()
            self._ready.set()
            nursery.start_soon(outbox.send)
            nursery.start_soon(self._announce, outbox)
            nursery.start_soon(self._look_around, client)
            nursery.start_soon(self._beat)
            await self._finish.wait()
            with trio.move_on_after(self._patience):
                outbox.close()
                if await outbox.sent(self._patience):
                    await self._adopt(client)
                    self._spool.remove()
            nursery.cancel_scope.cancel()
        if outbox.unsent:
            self._say(
                f"{outbox.unsent:,} bytes are kept in {self._spool.folder}; the next program sends them"
            )

    async def _announce(self, outbox: Outbox) -> None:
        """Tell the threads that wait."""
        while True:
            await outbox.change()
            self._refused = outbox.refused
            with self._room:
                self._room.notify_all()

    async def _look_around(self, client: Client) -> None:
        import trio

        while True:
            await self._adopt(client)
            await trio.sleep(LOOK_AROUND_SECONDS)

    async def _adopt(self, client: Client) -> None:
        """Send what processes that are gone have left."""
        from heliograph.client.leftovers import send_leftovers

        # What keeps these from being sent keeps this process's own items too, and is told there.
        try:
            await send_leftovers(
                self.settings.spools, self.settings.url, client, lambda sentence: None, LOOK_AROUND_SECONDS
            )
        except (OSError, ValueError) as error:
            log.debug("heliograph: what an earlier program left can't be read: %s", error)

    async def _beat(self) -> None:
        import trio

        seconds = self.settings.heartbeat_seconds
        while seconds:
            await trio.sleep(seconds / 2)
            with self._room:
                beats = list(self._open.values())
            for beat in beats:
                beat()

    def _say(self, sentence: str) -> None:
        log.warning("heliograph: %s", sentence)


def _resolver() -> trio.abc.HostnameResolver:
    """Make what looks names up: in a thread, or in this one once the interpreter is ending."""
    import trio

    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *arguments: Any, **options: Any) -> Any:
            look_up = partial(socket.getaddrinfo, *arguments, **options)
            try:
                return await trio.to_thread.run_sync(look_up, abandon_on_cancel=True)
            except RuntimeError:
                return look_up()

        async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
            return socket.getnameinfo(sockaddr, flags)

    return Resolver()


# One per process.

_settings: Settings | None = None
_courier: Courier | None = None
_guard = threading.RLock()
_silent_until = 0.0


def settings() -> Settings:
    """Return how this process publishes."""
    return _settings or Settings()


def use(chosen: Settings) -> None:
    """Publish so from now on; what was said so far is sent as it was meant."""
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
                _silent_until = time.monotonic() + LOOK_AROUND_SECONDS
                log.warning("heliograph: %s: %s; what the tasks say is lost", settings().spools, error)
        return _courier


def existing() -> Courier | None:
    """Return this process's courier if there is one."""
    return _courier


def flush(timeout: float = 10.0) -> bool:
    """Wait until the service has everything that this process has said so far.

    It blocks its thread: under asyncio or Trio call it in a worker thread.

    Args:
        timeout: In seconds; a service that refuses is not waited for.

    Returns:
        Whether the service has everything.
    """
    return True if _courier is None else _courier.flush(timeout)


def close(timeout: float | None = None) -> None:
    """Send the rest and end the background thread; whatever is said later begins anew.

    The end of the program does this by itself.

    Args:
        timeout: Seconds; by default the setting ``exit_seconds``. What is unsent then stays on disk.
    """
    global _courier
    with _guard:
        leaving, _courier = _courier, None
    if leaving is not None:
        leaving.close(leaving.settings.exit_seconds if timeout is None else timeout)


def _after_fork() -> None:
    global _courier, _guard
    _guard = threading.RLock()
    if _courier is not None:
        _courier.abandon()
        _courier = None


atexit.register(close)
os.register_at_fork(
    before=lambda: _guard.acquire(), after_in_parent=lambda: _guard.release(), after_in_child=_after_fork
)
