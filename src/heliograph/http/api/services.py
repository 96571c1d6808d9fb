"""The actors and stores that views work with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from heliograph.actors.appender import Appender
from heliograph.actors.archiver import ArchiverStats
from heliograph.actors.audit import Audit
from heliograph.actors.bridge import BridgeStats
from heliograph.actors.engine import Engine
from heliograph.actors.executions import Executions
from heliograph.actors.heartbeats import Heartbeats
from heliograph.actors.histogram import Histogram
from heliograph.actors.hub import Hub
from heliograph.actors.keyring import Keyring
from heliograph.actors.monitor import Monitor
from heliograph.actors.receiver import Receiver
from heliograph.actors.registry import Registry
from heliograph.actors.retention import RetentionStats
from heliograph.actors.subscriber import Subscriber
from heliograph.actors.webhooks import Webhooks
from heliograph.config import Settings
from heliograph.http.api.counts import RequestCounts
from heliograph.http.api.folded import CaughtUp
from heliograph.http.api.spans import recording
from heliograph.http.rules.auth import Authenticator, Identity
from heliograph.http.rules.under_way import UnderWay
from heliograph.http.streams.registry import StreamRegistry
from heliograph.http.wire import Tls
from heliograph.model.event import Draft
from heliograph.storage.protocols import Artifacts, Log, LogStats, Receipt, Store

STEP_DRAFTS = 1000
"""The number of drafts that are given their owner between two checkpoints."""


@attrs.frozen
class StorageStats:
    """The actors under this node's storage; the embedded form has retention only."""

    retention: RetentionStats
    log: LogStats | None = None
    archiver: ArchiverStats | None = None
    bridge: BridgeStats | None = None


@attrs.frozen
class Services:
    """The running service, as far as HTTP needs it."""

    settings: Settings
    log: Log
    store: Store
    appender: Appender
    subscriber: Subscriber
    hub: Hub
    histogram: Histogram
    registry: Registry
    engine: Engine
    heartbeats: Heartbeats
    monitor: Monitor
    webhooks: Webhooks
    receiver: Receiver
    artifacts: Artifacts
    executions: Executions
    streams: StreamRegistry
    authenticator: Authenticator
    keyring: Keyring
    audit: Audit
    tls: Tls | None
    ready: Callable[[], Awaitable[dict[str, str | None]]]
    storage_stats: Callable[[], StorageStats]
    requests: RequestCounts = attrs.field(factory=RequestCounts)
    traced: bool = attrs.field(factory=recording)
    """Whether requests have spans; an SDK must be set up before the service starts."""

    questions: UnderWay = attrs.field(init=False)
    long_answers: UnderWay = attrs.field(init=False)
    folded: CaughtUp = attrs.field(init=False)
    """Waits until the store has followed the log."""

    @questions.default
    def _questions(self) -> UnderWay:
        return UnderWay("questions", self.settings.server.max_questions_per_key)

    @long_answers.default
    def _long_answers(self) -> UnderWay:
        return UnderWay("long answers", self.settings.server.max_long_answers_per_key)

    @folded.default
    def _folded(self) -> CaughtUp:
        return CaughtUp(self.log, self.store)

    async def append(self, who: Identity, drafts: Sequence[Draft]) -> Receipt:
        """Append the drafts of a caller within the caller's quota.

        Raises:
            QuotaExceeded: The caller would have too many tasks under way.
            HeliographError: See ``Appender.append``.
        """
        if who.key:
            self.audit.published(who.key, len(drafts))
        owned: list[Draft] = []
        for start in range(0, len(drafts), STEP_DRAFTS):
            if start:
                await trio.lowlevel.checkpoint()
            step = drafts[start : start + STEP_DRAFTS]
            owned += [draft if draft.key is None else draft.of(who.name) for draft in step]
        allowance = who.allowance
        if allowance is None:
            return await self.appender.append(owned)
        # One event was already charged for the request.
        allowance.charge("events", len(drafts) - 1)
        histogram = self.histogram
        fresh = allowance.begin(drafts, histogram.active_of, histogram.stats().position)
        try:
            receipt = await self.appender.append(owned)
        except BaseException:
            allowance.forget(fresh)
            raise
        allowance.appended(drafts, receipt.cursor)
        return receipt
