"""The outbox: a spool, and its sending in order.

The reader of a command's output calls ``await put(items)``. One task sends, with one request in flight. A
first item goes out at once; items that arrive meanwhile leave together with the next request. So under load a
request carries hundreds of lines, and requests are at least ``PACE`` apart.

While the service is away the sender retries, with growing pauses, and the spool grows on disk up to its
bound. Then ``put`` waits, the command's output is no longer read, and the command waits on its full pipe.
Nothing is ever dropped. A full disk acts like the bound. A service that *refuses* (for a wrong key, say) is
treated alike, since the operator may mend it, but the end of the command does not wait for that. An *item*
that the service refuses would be refused for ever: one that is too large is split into smaller ones, and an
invalid one is set aside in a file, so that the items behind it go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
import trio

from heliograph.client.api import Client
from heliograph.client.spool import OutputRun, Spool, expand
from heliograph.model.backoff import Backoff
from heliograph.model.errors import ClientFault, Forbidden, HeliographError, Invalid, TooLarge, TooMany

SPOOL_LIMIT = 256 * 1024 * 1024
BATCH_BYTES = 1024 * 1024
PACE = 0.02
DISK_RETRY = 1.0
PATIENCE_BEFORE_NOTICE = 2.0

NEEDED = ("task_id", "status", "output", "stream", "exit_code")
"""Fields of a payload that its event can't do without."""


class Outbox:
    """Sends one spool.

    Args:
        spool: The spool, which its maker closes.
        client: The client of the service that it sends to.
        notify: Called with a sentence for people when the service is away or refuses, and when it is back.
        limit: Bytes that may be in the spool before ``put`` waits.

    Attributes:
        error: Why the latest try failed; ``None`` if it did not.
    """

    def __init__(
        self, spool: Spool, client: Client, notify: Callable[[str], object], limit: int = SPOOL_LIMIT
    ) -> None:
        self.error: HeliographError | None = None
        self._spool = spool
        self._client = client
        self._notify = notify
        self._limit = limit
        self._closed = False
        self._noticed = False
        self._changed = trio.Event()

    @property
    def unsent(self) -> int:
        """The number of unsent bytes."""
        return self._spool.unsent

    async def put(self, items: Sequence[Mapping[str, Any] | OutputRun]) -> None:
        """Append items to the spool once it is below its bound.

        If the call is cancelled, none of them was appended.
        """
        await trio.lowlevel.checkpoint()
        told = False
        while True:
            while self._spool.unsent >= self._limit:
                if not told:
                    told = self._warn(
                        f"the spool holds {self._spool.unsent:,} bytes; the command waits until some are sent"
                    )
                await self._changed.wait()
            try:
                return self.append(items)
            except OSError as error:
                if not told:
                    told = self._warn(
                        f"{self._spool.folder}: {error.strerror}; the command waits until it can be written"
                    )
            await trio.sleep(DISK_RETRY)

    def append(self, items: Sequence[Mapping[str, Any] | OutputRun]) -> None:
        """Append items to the spool, whether it is below its bound or not.

        Raises:
            OSError: The disk is full or broken; none of them was appended.
        """
        self._spool.append(items)
        self.wake()

    def wake(self) -> None:
        """Notice that another thread has appended to the spool; to be called in the sender's thread."""
        self._changed.set()
        self._changed = trio.Event()

    async def change(self) -> None:
        """Wait until items are appended, acknowledged or refused."""
        await self._changed.wait()

    def close(self) -> None:
        """Note that nothing more will be appended."""
        self._closed = True
        self.wake()

    async def send(self) -> None:
        """Send until the outbox is closed and everything is acknowledged; retry for ever."""
        backoff = Backoff()
        failing_since: float | None = None
        bodies: list[bytes] = []  # still to send
        length = 0  # of their records in the spool, in bytes
        while not (self._closed and not self._spool.unsent):
            if not self._spool.unsent:
                await self._changed.wait()
                continue
            begun = trio.current_time()
            if not length:
                records = self._spool.read(BATCH_BYTES)
                length, bodies = len(records), [expand(records)]
            try:
                while bodies:
                    bodies[:1] = await self._post(bodies[0])
            except HeliographError as error:
                self.error = error
                failing_since = begun if failing_since is None else failing_since
                if self.refused or trio.current_time() - failing_since >= PATIENCE_BEFORE_NOTICE:
                    self._notice()
                self.wake()
                await trio.sleep(backoff.cap if self.refused else backoff.next(error))
                continue
            self._spool.advance(length)
            length = 0
            if self._noticed:
                self._notify(f"the service at {self._client.url} takes the output again")
            self.error, self._noticed, failing_since = None, False, None
            backoff.reset()
            self.wake()
            await trio.sleep_until(begun + PACE)

    async def _post(self, body: bytes) -> list[bytes]:
        """Post items once; return the bodies to post instead, if the service refuses items."""
        try:
            await self._client.post_events(body)
        except TooLarge as error:
            return _halves(body) or smaller(body) or self._without(body, {0}, error)
        except Forbidden as error:
            if not self._client.limited:
                raise
            return _halves(body) or self._without(body, {0}, error)
        except Invalid as error:
            if not (blamed := _blamed(error)):
                raise
            return self._without(body, blamed, error)
        return []

    @property
    def refused(self) -> bool:
        """Whether the service was reached and refuses the requests."""
        return isinstance(self.error, ClientFault) and not isinstance(self.error, TooMany)

    async def sent(self, patience: float) -> bool:
        """Wait until the outbox is closed and everything is acknowledged; ``send`` runs in another task.

        Args:
            patience: Seconds without progress after which to give up; at once if the service refuses.

        Returns:
            Whether everything was sent.
        """
        while self._spool.unsent and not self.refused:
            waiting = self._spool.unsent
            with trio.move_on_after(patience) as scope:
                while self._spool.unsent == waiting and not self.refused:
                    await self._changed.wait()
            if scope.cancelled_caught:
                break
        return not self._spool.unsent

    def _without(self, body: bytes, blamed: set[int], error: HeliographError) -> list[bytes]:
        """Set aside the items that the service refuses; return the others."""
        lines = body.splitlines(keepends=True)
        kept = self._spool.set_aside([line for index, line in enumerate(lines) if index in blamed])
        where = f"they are kept in {kept}" if kept else "they are dropped"
        count = f"{len(blamed)} item" if len(blamed) == 1 else f"{len(blamed)} items"
        self._notify(f"{self._client.url} refuses {count} for good ({error}); {where}")
        others = b"".join(line for index, line in enumerate(lines) if index not in blamed)
        return [others] if others else []

    def _notice(self) -> None:
        if not self._noticed:
            self._noticed = True
            verdict = "refuses the output" if self.refused else "does not take the output now"
            self._notify(f"{self._client.url} {verdict} ({self.error}); it is kept on disk")

    def _warn(self, sentence: str) -> bool:
        self._notify(sentence)
        return True


def _halves(body: bytes) -> list[bytes]:
    """Return a request as two; nothing if it has only one item."""
    lines = body.splitlines(keepends=True)
    middle = len(lines) // 2
    return [b"".join(lines[:middle]), b"".join(lines[middle:])] if middle else []


def smaller(line: bytes) -> list[bytes]:
    """Return smaller items in place of one that is too large; none if it can't be made smaller.

    A piece of output becomes two pieces of the same line. In any other item the largest field of the payload
    is cut to half its length, or left out if it is not text.
    """
    item = orjson.loads(line)
    payload = item.get("payload", {})
    output = payload.get("output")
    if isinstance(output, str) and len(output) > 1:
        middle, rest = len(output) // 2, {**payload}
        rest.pop("rewind", None)
        halves = [
            {"payload": {**payload, "output": output[:middle], "partial": True}, "key": f"{item['key']}/1"},
            {"payload": {**rest, "output": output[middle:]}, "key": f"{item['key']}/2"},
        ]
        return [orjson.dumps({**item, **half}, option=orjson.OPT_APPEND_NEWLINE) for half in halves]
    holder = payload["result"] if isinstance(payload.get("result"), dict) else payload
    sizes = {name: len(orjson.dumps(holder[name])) for name in holder if name not in NEEDED}
    if not sizes:
        return []
    largest = max(sizes, key=sizes.__getitem__)
    whole = holder.pop(largest)
    if isinstance(whole, str) and len(whole) > 1:
        holder[largest] = whole[: len(whole) // 2]
    return [orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE)]


def _blamed(error: Invalid) -> set[int]:
    """Return the positions of the refused items; none if the whole request is refused."""
    if any(field.index is None for field in error.errors):
        return set()
    return {field.index for field in error.errors if field.index is not None}
