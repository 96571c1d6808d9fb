"""The audit: the log's own record of what keys did, on the channel ``audit``.

Calls that remove something, are an administrator's or hand on the rights of a key are told one by one
(``audit.called``): what was asked, by which key and from where, and how it was answered. So are keys that
come and go (``audit.key``). Publishing is told in sums, once a minute and key (``audit.published``): an event
for each event would double the cost of publishing. What retention removes is told likewise
(``audit.removed``).

Calls are gathered for a moment and appended together, equal ones as one with their number, so a page that
asks for a ticket with every stream costs one event. What waits is bounded, and what is over it is told as a
number. While the log is away all of it waits; at the end of the process it is appended with the last group.
No answer waits for the audit, so a crash loses what the last second has gathered, and the last sums.
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
"""Every node says the same of a key, so that the log keeps it once."""

log = structlog.get_logger(__name__)


class AuditedCall(NamedTuple):
    """A call: equal ones of the same moment are told as one."""

    key: str
    by: str
    address: str | None
    method: str
    path: str
    status: int


@attrs.define
class PublishedSum:
    """What a key has published since the last sum."""

    requests: int = 0
    events: int = 0


@attrs.define
class Audit:
    """What is to be told.

    Args:
        node: This node's name.
        append: Appends drafts to the log.
        removed: Returns how much retention has removed on this node: events, and runs.
        remembered: How long the log knows an idempotency key.
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
        """Note what became of keys; what was told already is not told again, by whichever node."""
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
                # Later the log would keep it once more: it does not know any longer that it has it.
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
        """Append what there is to tell until cancelled, and the last of it then."""
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
        """Take the calls and keys that wait."""
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
        """Take the sums since the last ones."""
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
