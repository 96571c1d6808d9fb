"""The audit: the log's own record of what keys did, on the channel ``audit``.

Each call that removes something, needs an administrator or passes on the rights of a key is recorded
(``audit.called``): the request, its key and origin, and the answer. So is each key that is made, revoked or
expires (``audit.key``). Publishing is recorded in sums per key, once a minute (``audit.published``): an event
for each event would double the cost of publishing. Removals by retention are recorded in sums, too
(``audit.removed``).

Calls are gathered for a moment and appended together. Equal calls become one event with their number, so a
page that asks for a ticket with every stream costs one event. The number of different waiting calls is
bounded; further ones are only counted. While the log is away everything waits; when the process ends, it is
appended with the last group. No answer waits for the audit, so a crash loses the calls of the last second,
and the last sums.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import attrs
import structlog
import trio

from heliograph.actors.retry import until_it_works
from heliograph.model.channels import AUDIT
from heliograph.model.errors import HeliographError
from heliograph.model.event import Draft
from heliograph.model.keys import StoredKey

GATHER_SECONDS = 0.5
SUM_SECONDS = 60.0
MOST_WAITING = 1000
LAST_SECONDS = 1.0
SENDER = "heliograph"
"""The sender of all audit events: every node sends the same event of a key, and the log keeps it once."""

log = structlog.get_logger(__name__)


class AuditedCall(NamedTuple):
    """A call; equal calls of the same moment become one event."""

    key: str
    by: str
    address: str | None
    method: str
    path: str
    status: int


@attrs.define
class PublishedSum:
    """The sum of what a key has published since the last sum."""

    requests: int = 0
    events: int = 0


@attrs.define
class Audit:
    """Records what keys and retention do.

    Args:
        node: This node's name.
        append: Appends drafts to the log.
        removed: Returns how many events and runs retention has removed on this node.
        remembered: How long the log remembers an idempotency key.
    """

    node: str
    append: Callable[[Sequence[Draft]], Awaitable[object]]
    removed: Callable[[], tuple[int, int]]
    remembered: timedelta
    written: int = attrs.field(default=0, init=False)
    dropped: int = attrs.field(default=0, init=False)
    _calls: Counter[AuditedCall] = attrs.field(factory=Counter, init=False)
    _more: int = attrs.field(default=0, init=False)
    _published: dict[str, PublishedSum] = attrs.field(factory=dict, init=False)
    _keys: list[Draft] = attrs.field(factory=list, init=False)
    _since: datetime = attrs.field(factory=lambda: datetime.now(UTC), init=False)
    _told: tuple[int, int] = attrs.field(default=(0, 0), init=False)
    _rung: trio.Event = attrs.field(factory=trio.Event, init=False)

    def called(self, call: AuditedCall) -> None:
        """Note a call."""
        if call in self._calls or len(self._calls) < MOST_WAITING:
            self._calls[call] += 1
        else:
            self._more += 1
            self.dropped += 1
        self._rung.set()

    def published(self, key: str, events: int) -> None:
        """Note a request that published events."""
        told = self._published.get(key)
        if told is None:
            told = self._published[key] = PublishedSum()
        told.requests += 1
        told.events += events

    def keys(self, keys: Iterable[StoredKey]) -> None:
        """Note that keys were made, revoked or have expired; all nodes together record each change once."""
        now = datetime.now(UTC)
        for key in keys:
            moments = (
                ("made", key.made_at, key.made_by),
                ("revoked", key.revoked_at, key.revoked_by),
                ("expired", None if key.revoked_at is not None else key.expires_at, None),
            )
            for change, at, by in moments:
                if at is None:
                    continue
                moment = datetime.fromtimestamp(at, UTC)
                # The log has forgotten the idempotency key of an older change, and would keep it again.
                if now - self.remembered < moment <= now:
                    payload = {
                        "key": key.name,
                        "change": change,
                        "at": moment,
                        "by": by,
                        "scopes": key.scopes,
                        "channels": key.channels,
                        "expires_at": key.expires_at,
                    }
                    once = f"heliograph/audit/{key.name}/{change}"
                    self._keys.append(Draft.own(AUDIT, "audit.key", payload, sender=SENDER, key=once))
        if self._keys:
            self._rung.set()

    async def run(self) -> None:
        """Append what was noted, until cancelled; then append the rest."""
        next_sum = trio.current_time() + SUM_SECONDS
        try:
            while True:
                with trio.move_on_at(next_sum):
                    await self._rung.wait()
                    await trio.sleep(GATHER_SECONDS)
                self._rung = trio.Event()
                if trio.current_time() >= next_sum:
                    next_sum = trio.current_time() + SUM_SECONDS
                    drafts = [*self._take(), *self._take_sums()]
                else:
                    drafts = self._take()
                if drafts:
                    await until_it_works(partial(self._append, drafts), "auditing")
        finally:
            if drafts := [*self._take(), *self._take_sums()]:
                with trio.move_on_after(LAST_SECONDS, shield=True):
                    try:
                        await self._append(drafts)
                    except HeliographError as error:
                        log.warning("the last of the audit is lost", events=len(drafts), reason=str(error))

    async def _append(self, drafts: Sequence[Draft]) -> None:
        await self.append(drafts)
        self.written += len(drafts)

    def _take(self) -> list[Draft]:
        """Take the drafts of waiting calls and keys."""
        drafts, self._keys = self._keys, []
        for call, count in self._calls.items():
            payload = {**call._asdict(), "count": count, "node": self.node}
            drafts.append(Draft.own(AUDIT, "audit.called", payload, sender=SENDER))
        if self._more:
            payload = {"count": self._more, "node": self.node}
            drafts.append(Draft.own(AUDIT, "audit.dropped", payload, sender=SENDER))
        self._calls, self._more = Counter(), 0
        return drafts

    def _take_sums(self) -> list[Draft]:
        """Take the drafts of the sums since the last ones."""
        since, self._since = self._since, datetime.now(UTC)
        around: dict[str, Any] = {"since": since, "until": self._since, "node": self.node}
        published, self._published = self._published, {}
        drafts = [
            Draft.own(AUDIT, "audit.published", {"key": key, **attrs.asdict(told), **around}, sender=SENDER)
            for key, told in published.items()
        ]
        removed = self.removed()
        events, runs = (now - before for now, before in zip(removed, self._told, strict=True))
        self._told = removed
        if events or runs:
            payload = {"events": events, "runs": runs, **around}
            drafts.append(Draft.own(AUDIT, "audit.removed", payload, sender=SENDER))
        return drafts
