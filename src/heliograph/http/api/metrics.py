"""Prometheus metrics: a snapshot of the actors' ``stats()``, taken for each request.

Nothing is counted twice and the hot paths know no metrics library: this module turns plain numbers into
the exposition format.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

import attrs
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from heliograph.actors.heartbeats import HeartbeatStats
from heliograph.actors.registry import RegistryStats
from heliograph.http.api.counts import RequestCounts
from heliograph.http.api.services import Services, StorageStats
from heliograph.model.durations import BOUNDS, Durations

Labelled = Mapping[Any, Any]
FAMILIES = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}


@attrs.frozen
class Sample:
    """One metric with its values by label.

    Args:
        name: The name without the prefix ``heliograph_``.
        help: The meaning of the metric, with its unit.
        kind: ``counter``, ``gauge``, or ``histogram``, whose values are ``Durations``.
        labels: Names of the labels.
        values: The values by tuples of the labels' values.
    """

    name: str
    help: str
    kind: str
    labels: tuple[str, ...]
    values: Labelled


def one(name: str, text: str, kind: str, value: float) -> Sample:
    """Make a metric without labels."""
    return Sample(name, text, kind, (), {(): value})


def snapshot(services: Services) -> list[Sample]:
    """Read all numbers at one moment, on the event loop."""
    hub, appender = services.hub.stats(), services.appender.stats()
    replay, streams = services.hub.replay.stats(), services.streams
    analytics = services.histogram.stats()
    open_streams = {("ws",): 0.0, ("sse",): 0.0}
    pending = 0
    for stream in streams.streams:
        open_streams[stream.transport,] += 1
        pending += stream.pending_bytes

    return [
        one("appended_events", "Events made durable through this node", "counter", appender.events),
        one("append_groups", "Durable writes that took them", "counter", appender.groups),
        one("append_waiting", "Publish requests waiting", "gauge", appender.waiting),
        one(
            "append_refused",
            "Publish requests turned away, the queue being full",
            "counter",
            appender.refused,
        ),
        one("append_failed", "Publish requests that the log refused", "counter", appender.failed),
        one("dispatched_events", "Events dispatched to broadcasters", "counter", hub.events),
        one("deliveries", "Messages times watchers", "counter", hub.deliveries),
        one("broadcasters", "Broadcasters now", "gauge", hub.broadcasters),
        one("subscriptions", "Live subscriptions now", "gauge", hub.subscriptions),
        one("ring_bytes", "Bytes of recent messages kept, roughly", "gauge", hub.ring_bytes),
        one("hub_inbox_batches", "Batches waiting for the hub", "gauge", hub.inbox),
        one("replay_pages", "Pages of the log read for replay", "counter", replay.pages),
        one("replay_shared", "Replays served by somebody else's reading", "counter", replay.shared),
        one("analytics_events", "Events folded by the aggregator", "counter", analytics.events),
        one("analytics_deltas", "Deltas published by this node", "counter", analytics.published),
        one("analytics_lookups", "Finished tasks asked of the store", "counter", analytics.looked_up),
        one("analytics_loads", "Times the rollups were loaded", "counter", analytics.loads),
        one("analytics_views", "Views with sums kept", "gauge", analytics.views),
        one("analytics_kept_bytes", "Bytes of sums kept for views", "gauge", analytics.kept_bytes),
        one("analytics_cells", "Places with sums", "gauge", analytics.cells),
        one(
            "analytics_active_tasks", "Tasks not finished, as the aggregator knows", "gauge", analytics.active
        ),
        one("analytics_backlog", "Batches waiting for the aggregator", "gauge", analytics.backlog),
        one("pending_bytes", "Bytes waiting for slow clients", "gauge", pending),
        one("questions", "Questions under way", "gauge", services.questions.total),
        one("questions_refused", "Questions over a key's bound", "counter", services.questions.refused),
        one("long_answers", "Answers being written bit by bit", "gauge", services.long_answers.total),
        one("long_answers_refused", "Those over a key's bound", "counter", services.long_answers.refused),
        Sample("streams", "Open streams", "gauge", ("transport",), open_streams),
        Sample("streams_opened", "Streams opened", "counter", ("transport",), _tuples(streams.opened)),
        Sample(
            "streams_refused",
            "Streams refused, by the limit",
            "counter",
            ("transport", "reason"),
            streams.refused,
        ),
        Sample(
            "streams_ended", "Streams ended, by reason", "counter", ("transport", "reason"), streams.ended
        ),
        Sample(
            "dropped_events", "Events dropped by a policy", "counter", ("policy",), _tuples(streams.dropped)
        ),
        *_heartbeat_samples(services.heartbeats.stats()),
        *_registry_samples(services.registry.stats()),
        *_webhook_samples(services),
        *_process_samples(services),
        *_key_samples(services),
        *_request_samples(services.requests),
        *_storage_samples(services.storage_stats()),
    ]


def _registry_samples(registry: RegistryStats) -> Iterable[Sample]:
    yield one("workflows", "Workflows that this node knows", "gauge", registry.workflows)
    yield one("workflows_troubled", "Workflows with problems in their files", "gauge", registry.troubled)
    yield one("workflows_broken", "Folders that are no workflows, and should be", "gauge", registry.broken)
    yield one("workflow_reads", "Workflow folders read", "counter", registry.read)
    yield one("workflow_look_seconds", "Duration of the last look at all folders", "gauge", registry.looked)


def _heartbeat_samples(heartbeats: HeartbeatStats) -> Iterable[Sample]:
    yield one("lost_tasks", "Tasks that this node has told to be lost", "counter", heartbeats.lost)
    yield one("returned_tasks", "Lost tasks that this node has told to be back", "counter", heartbeats.back)


def _webhook_samples(services: Services) -> Iterable[Sample]:
    received, webhooks = services.receiver.stats(), services.webhooks
    yield one("webhooks", "Webhooks that this node knows", "gauge", len(webhooks.hooks))
    yield one("webhooks_broken", "Files that are no webhooks, and should be", "gauge", len(webhooks.broken))
    outcomes = {("accepted",): received.accepted, ("skipped",): received.skipped}
    yield Sample("webhook_deliveries", "Deliveries kept, by outcome", "counter", ("outcome",), outcomes)
    yield Sample(
        "webhook_refused", "Deliveries refused, by reason", "counter", ("reason",), _tuples(received.refused)
    )


def _process_samples(services: Services) -> Iterable[Sample]:
    process = services.monitor.process_stats()
    yield one("process_memory_bytes", "Resident memory of this process", "gauge", process.memory_bytes)
    yield one("process_cpu_seconds", "Processor time of this process", "counter", process.cpu_seconds)
    yield one("process_open_files", "Open descriptors of this process", "gauge", process.open_files)
    delays = services.monitor.delays.copy()
    yield Sample(
        "event_loop_delay_seconds",
        "How late a task that sleeps was woken, looked at once a second",
        "histogram",
        (),
        {(): delays},
    )
    if (tls := services.tls) is not None:
        yield one("tls_handshakes", "Connections let in over TLS", "counter", tls.stats.handshakes)
        yield one("tls_failed", "TLS handshakes that came to nothing", "counter", tls.stats.failed)
        yield one("tls_reloads", "Certificates taken over since the start", "counter", tls.stats.reloads)
        yield one("tls_broken", "Whether the certificate's files can't be used", "gauge", tls.stats.broken)


def _key_samples(services: Services) -> Iterable[Sample]:
    keyring, refused = services.keyring, services.authenticator.refused
    configured = len(services.settings.auth.keys)
    yield one("refused_credentials", "Requests with a wrong key, ticket or session", "counter", refused.total)
    yield one("audit_events", "Events of the audit that were appended", "counter", services.audit.written)
    yield one(
        "audit_dropped", "Calls that the audit tells as a number only", "counter", services.audit.dropped
    )
    yield one("slowed_credentials", "Those that were answered 429", "counter", refused.slowed)
    over = {
        (name, unit): n
        for name, allowance in services.authenticator.allowances.items()
        for unit, n in allowance.refused.items()
    }
    yield Sample("quota_refused", "Requests over a key's quota", "counter", ("key", "of"), over)
    states = {"configured": configured, **keyring.stats()}
    yield Sample("api_keys", "API keys, by what has become of them", "gauge", ("state",), _tuples(states))


def _request_samples(requests: RequestCounts) -> Iterable[Sample]:
    answered = {(method, path, str(status)): n for (method, path, status), n in requests.answered.items()}
    labels = ("method", "route")
    yield Sample("http_requests", "Requests answered, by status", "counter", (*labels, "status"), answered)
    durations = {place: one.copy() for place, one in requests.durations.items()}
    yield Sample("http_request_seconds", "Time until requests were answered", "histogram", labels, durations)


def _storage_samples(storage: StorageStats) -> Iterable[Sample]:
    yield one("retired_events", "Events removed by retention", "counter", storage.retention.removed)
    yield one("retired_runs", "Runs removed by retention", "counter", storage.retention.runs)
    yield one(
        "retired_artifacts", "Runs whose artifacts retention removed", "counter", storage.retention.left
    )
    yield one("retired_channels", "Channels forgotten by retention", "counter", storage.retention.forgotten)
    if (channels := storage.retention.channels) is not None:
        yield one("channels", "Channels kept, as of the last hourly look", "gauge", channels)
    if (log := storage.log) is not None:
        yield one("log_reachable", "Whether the log is reachable", "gauge", log.reachable)
        yield one("log_outages", "Times that the log became unreachable", "counter", log.outages)
        yield one("log_losses", "Times that the log had lost events", "counter", log.losses)
    if (archiver := storage.archiver) is not None:
        yield one("archiver_active", "Whether this node archives", "gauge", archiver.active)
        yield one("archiver_terms", "Times that this node began to archive", "counter", archiver.terms)
        yield one("archived_events", "Events that this node archived", "counter", archiver.events)
    if (bridge := storage.bridge) is not None:
        yield one("bridge_active", "Whether this node bridges Redis's pub/sub", "gauge", bridge.active)
        yield one("bridge_terms", "Times that this node began to bridge", "counter", bridge.terms)
        yield one("bridged_events", "Events made of what agents published to Redis", "counter", bridge.events)
        yield one("bridge_refused", "Messages that could not be taken", "counter", bridge.refused)
        yield one("bridge_dropped", "Messages dropped with a lost lease", "counter", bridge.dropped)


def _tuples(counts: Mapping[str, int]) -> Labelled:
    return {(name,): float(count) for name, count in counts.items()}


def render(samples: Iterable[Sample]) -> bytes:
    """Encode samples in the Prometheus text format."""
    registry = CollectorRegistry()
    registry.register(_Collector(list(samples)))
    return generate_latest(registry)


class _Collector:
    def __init__(self, samples: list[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterable[Metric]:
        for sample in self._samples:
            metric = FAMILIES[sample.kind](f"heliograph_{sample.name}", sample.help, labels=sample.labels)
            for labels, value in sample.values.items():
                if isinstance(value, Durations):
                    bounds = [*map(str, BOUNDS), "+Inf"]
                    totals = accumulate(value.counts)
                    metric.add_metric(labels, list(zip(bounds, totals, strict=True)), value.seconds)
                else:
                    metric.add_metric(labels, value)
            yield metric
