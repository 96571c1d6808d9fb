"""The delivery: the work of the courier's thread, under Trio.

It sends the process's own spool through the outbox, and now and then the spools of dead processes. This
module alone imports the libraries for that; the program's own threads need none of them.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 (looking up a name imports it; a fork in that moment would leave it half done)
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import trio

from heliograph.client.agent.settings import ClientSettings
from heliograph.client.api import Client
from heliograph.client.attachments import send_attachments
from heliograph.client.leftovers import send_leftovers
from heliograph.client.outbox import Outbox
from heliograph.client.spool import Spool
from heliograph.model.backoff import Backoff
from heliograph.model.errors import HeliographError

LOOK_AROUND_SECONDS = 30.0

log = logging.getLogger("heliograph")


class DeliveryProgress(Protocol):
    """Called after each change: items were appended, acknowledged or refused."""

    def __call__(self, *, refused: bool) -> None:
        """Act on a change; ``refused``: the service refuses, so that waiting is of no use."""


class Sender:
    """Sends one spool until it is told to finish.

    Args:
        spool: The spool, which other threads append to and its maker closes.
        settings: The settings of this process.
        beats: Returns the heartbeats of running tasks, to be called now and then.
        progress: Called after each change.
    """

    def __init__(
        self,
        spool: Spool,
        settings: ClientSettings,
        beats: Callable[[], list[Callable[[], object]]],
        progress: DeliveryProgress,
    ) -> None:
        self._spool = spool
        self._settings = settings
        self._beats = beats
        self._progress = progress
        self._patience = settings.exit_seconds
        self._awake = False
        self._attaching = trio.Lock()

    def run(self, on_ready: Callable[[Sender], object]) -> None:
        """Send, in this thread; call ``on_ready`` once other threads may call the methods below."""
        trio.run(self._deliver, on_ready)

    def look_soon(self) -> None:
        """Have appended items sent soon."""
        if not self._awake:
            self._awake = True
            self._soon(self._look)

    def finish_soon(self, patience: float) -> None:
        """Send the rest, for at most ``patience`` seconds, and end."""
        self._patience = patience
        self._soon(self._finish.set)

    def _soon(self, call: Callable[[], object]) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(call)

    def _look(self) -> None:
        self._awake = False
        self._outbox.wake()

    async def _deliver(self, on_ready: Callable[[Sender], object]) -> None:
        trio.socket.set_custom_hostname_resolver(_Resolver())
        settings = self._settings
        async with Client(settings.url, settings.api_key) as client, trio.open_nursery() as nursery:
            self._outbox = outbox = Outbox(self._spool, client, self._say)
            self._finish = trio.Event()
            self._token = trio.lowlevel.current_trio_token()
            on_ready(self)
            nursery.start_soon(outbox.send)
            nursery.start_soon(self._announce)
            nursery.start_soon(self._look_around, client)
            nursery.start_soon(self._beat)
            nursery.start_soon(self._send_attachments, client)
            await self._finish.wait()
            with trio.move_on_after(self._patience):
                outbox.close()
                if await outbox.sent(self._patience) and await self._attachments_sent(client):
                    await self._adopt(client)
                    self._spool.remove()
            nursery.cancel_scope.cancel()
        if left := outbox.unsent + sum(file.stat().st_size for file in self._spool.attachments()):
            self._say(f"{left:,} bytes are kept in {self._spool.folder}; the next program sends them")

    async def _announce(self) -> None:
        while True:
            await self._outbox.change()
            self._progress(refused=self._outbox.refused)

    async def _send_attachments(self, client: Client) -> None:
        backoff = Backoff()
        while True:
            if self._spool.attachments() and not await self._attachments_sent(client):
                await trio.sleep(backoff.next())
                continue
            backoff.reset()
            await self._outbox.change()

    async def _attachments_sent(self, client: Client) -> bool:
        async with self._attaching:
            try:
                await send_attachments(self._spool, client, self._say)
            except HeliographError as error:
                log.debug("heliograph: attachments wait: %s", error)
                return False
        self._progress(refused=self._outbox.refused)
        return True

    async def _look_around(self, client: Client) -> None:
        while True:
            await self._adopt(client)
            await trio.sleep(LOOK_AROUND_SECONDS)

    async def _adopt(self, client: Client) -> None:
        """Send the spools of dead processes."""
        folder, url = self._settings.spools, self._settings.url
        # A fault that keeps these spools from being sent also keeps this process's own, which reports it.
        try:
            await send_leftovers(folder, url, client, lambda sentence: None, LOOK_AROUND_SECONDS)
        except (OSError, ValueError) as error:
            log.debug("heliograph: what an earlier program left can't be read: %s", error)

    async def _beat(self) -> None:
        while seconds := self._settings.heartbeat_seconds:
            await trio.sleep(seconds / 2)
            for beat in self._beats():
                beat()

    def _say(self, sentence: str) -> None:
        log.warning("heliograph: %s", sentence)


class _Resolver(trio.abc.HostnameResolver):
    """Resolves names in a thread, or in this one once the interpreter is ending and starts no threads."""

    async def getaddrinfo(self, *arguments: Any, **options: Any) -> Any:
        look_up = partial(socket.getaddrinfo, *arguments, **options)
        try:
            return await trio.to_thread.run_sync(look_up, abandon_on_cancel=True)
        except RuntimeError:
            return look_up()

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        return socket.getnameinfo(sockaddr, flags)
