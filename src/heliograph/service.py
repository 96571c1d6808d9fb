"""The composition root: the only place that wires; its nesting is the order of start and of stop.

Start goes inwards, stop goes outwards. Storage is opened first and closed last. Inside it is the appender,
which must outlive every publisher; then the followers of the log (subscriber and hub); then the streams' own
tasks; innermost the front, which ends first. A crash in any actor cancels everything inside and ends the
process loudly.

A long module, since the nesting can only be read, and changed, as one.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from datetime import timedelta

import attrs
import structlog
import trio

from heliograph.actors import (
    Appender,
    Archiver,
    Audit,
    Bridge,
    Clock,
    Engine,
    Executions,
    Heartbeats,
    Histogram,
    Hub,
    Keyring,
    Monitor,
    Receiver,
    Registry,
    Retention,
    SigningSecrets,
    Subscriber,
    Sweeper,
    Webhooks,
)
from heliograph.actors.engine import HttpLink, Link, QueueLink
from heliograph.config import Settings, hide_password, is_loopback
from heliograph.http.api import ENDPOINTS, Services, Shortcuts, StorageStats, create_app
from heliograph.http.rules.auth import Authenticator
from heliograph.http.streams import KeyNews, StreamRegistry, drain
from heliograph.http.wire import Server, Tls, open_listener, open_lot
from heliograph.model.errors import SettingsError, Unavailable
from heliograph.model.ids import OLDEST, format_id
from heliograph.model.prices import Prices
from heliograph.storage.artifacts import FolderArtifacts
from heliograph.storage.embedded import migrate_sqlite, open_embedded
from heliograph.storage.objects import ObjectArtifacts, open_bucket
from heliograph.storage.protocols import Artifacts, Storage
from heliograph.storage.sql.migrate import HEAD
from heliograph.tracing import exporting

log = structlog.get_logger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

GRACE_SECONDS = 0.5
"""Seconds for requests and farewells after the drain window."""


async def run(settings: Settings, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal stops at once.

    Its started value is the URL that it serves.

    Raises:
        SettingsError: A setting can't be used: the address, the folder, the database.
    """
    tune_process()
    tls = None
    if settings.server.tls_cert is not None:
        tls = Tls(settings.server.tls_cert, settings.server.tls_key)
    # Outermost, so that an impatient second signal never interrupts the closing of storage.
    with exporting(), trio.open_signal_receiver(*SIGNALS) as signals:
        await _run_storage(settings, tls, signals, task_status)
    log.info("stopped")


async def _run_storage(
    settings: Settings,
    tls: Tls | None,
    signals: AsyncIterator[int],
    task_status: trio.TaskStatus[str],
) -> None:
    artifacts = open_artifacts(settings)
    problem: str | None = None
    async with open_storage(settings) as storage:
        with open_listener(settings.server.host, settings.server.port, settings.server.backlog) as listener:
            async with trio.open_nursery() as keepers:
                staff = Staff.of(storage, artifacts, settings)
                for name, actor in staff.actors.items():
                    keepers.start_soon(actor, name=name)
                keyring = Keyring(storage.vault)
                with suppress(Unavailable):
                    await keyring.refresh()
                problem = open_to_all(settings, keyring)
                if problem is None:
                    await _run_writers(
                        settings, tls, storage, artifacts, staff, keyring, listener, signals, task_status
                    )
                keepers.cancel_scope.cancel()
    if problem is not None:
        raise SettingsError([problem])


async def _run_writers(
    settings: Settings,
    tls: Tls | None,
    storage: Storage,
    artifacts: Artifacts,
    staff: Staff,
    keyring: Keyring,
    listener: socket.socket,
    signals: AsyncIterator[int],
    task_status: trio.TaskStatus[str],
) -> None:
    async with trio.open_nursery() as writers:
        appender = Appender(storage.log, settings.events.append_queue)
        writers.start_soon(appender.run, name="appender")
        try:
            await _run_streams(
                settings, tls, storage, artifacts, staff, keyring, appender, listener, signals, task_status
            )
        finally:
            appender.close()


async def _run_streams(
    settings: Settings,
    tls: Tls | None,
    storage: Storage,
    artifacts: Artifacts,
    staff: Staff,
    keyring: Keyring,
    appender: Appender,
    listener: socket.socket,
    signals: AsyncIterator[int],
    task_status: trio.TaskStatus[str],
) -> None:
    async with trio.open_nursery() as followers, trio.open_nursery() as flushers:
        the_log = storage.log
        hub = Hub(
            the_log,
            storage.start,
            flush_seconds=settings.streams.flush_ms / 1000,
            ring_events=settings.streams.ring_events,
            ring_bytes=settings.streams.ring_bytes,
            ring_total_bytes=settings.streams.ring_total_bytes,
            linger_seconds=settings.streams.linger_seconds,
        )
        histogram = Histogram(the_log, storage.store, appender.append, Prices(settings.prices))
        subscriber = Subscriber(the_log, storage.start or OLDEST, [hub.inbox, histogram.inbox])
        followers.start_soon(hub.run, name="hub")
        followers.start_soon(histogram.run, name="histogram")
        followers.start_soon(subscriber.run, name="subscriber")
        engine = _engine(settings, storage, appender)
        followers.start_soon(engine.run, name="engine")
        heartbeats = Heartbeats(
            the_log,
            storage.store,
            appender.append,
            storage.turn("heartbeats"),
            staff.clock,
            storage.checks,
            settings.tasks.lost_after_seconds,
        )
        followers.start_soon(heartbeats.run, name="heartbeats")
        signing = SigningSecrets(storage.vault)
        if keyring.loaded:  # the vault was there a moment ago
            with suppress(Unavailable):
                await signing.refresh()
        followers.start_soon(signing.run, name="signing secrets")
        registry = Registry(settings.workflows, appender.append)
        await followers.start(registry.run, name="registry")
        webhooks = Webhooks(settings.webhooks, os.environ, storage.store, storage.vault, appender.append)
        await followers.start(webhooks.run, name="webhooks")
        receiver = Receiver(
            webhooks,
            storage.store,
            appender.append,
            engine,
            settings.engine.repo_path,
            settings.events.max_bytes,
        )
        followers.start_soon(receiver.run, name="receiver")
        lot = open_lot()
        streams = StreamRegistry(settings.streams, flushers.start_soon, lot)
        authenticator = Authenticator(
            settings.auth,
            lambda: signing.current,
            keyring,
            guarded=not is_loopback(settings.server.host),
        )
        audit = Audit(
            socket.gethostname(),
            appender.append,
            lambda: (staff.stats().retention.removed, staff.stats().retention.runs),
            timedelta(seconds=settings.events.key_ttl_seconds),
        )
        audit.keys(keyring.keys.values())  # changes while no service ran
        followers.start_soon(audit.run, name="audit")
        configured = frozenset(key.name for key in settings.auth.keys)
        keyring.on_look = KeyNews(authenticator, streams, audit, configured).on_changes
        followers.start_soon(keyring.run, name="keyring")
        sweeper = Sweeper(lambda: streams.streams, sweep_interval(settings))
        followers.start_soon(sweeper.run, name="sweeper")

        async def ready() -> dict[str, str | None]:
            behind = subscriber.stats().position < the_log.position
            checks = await storage.checks()
            archiver = staff.stats().archiver
            if archiver is not None and archiver.error is not None:
                checks["archive"] = checks.get("archive") or archiver.error
            return {
                **checks,
                "clock": staff.clock.problem(),
                "subscriber": "catching up with the log" if behind else None,
                "analytics": None if histogram.loaded else "loading the rollups",
            }

        monitor = Monitor(
            socket.gethostname(),
            settings.storage.data,
            ready,
            storage.latencies,
            lambda: hub.stats().events,
            hub.watched,
            appender.append,
        )
        followers.start_soon(monitor.run, name="monitor")
        services = Services(
            settings=settings,
            log=the_log,
            store=storage.store,
            appender=appender,
            subscriber=subscriber,
            hub=hub,
            histogram=histogram,
            registry=registry,
            monitor=monitor,
            engine=engine,
            heartbeats=heartbeats,
            webhooks=webhooks,
            receiver=receiver,
            artifacts=artifacts,
            executions=Executions(storage.store),
            streams=streams,
            authenticator=authenticator,
            keyring=keyring,
            audit=audit,
            tls=tls,
            ready=ready,
            storage_stats=staff.stats,
        )
        server = Server(
            create_app(services),
            listener,
            write_timeout=settings.server.write_timeout,
            idle_timeout=settings.server.idle_timeout,
            grace=settings.server.drain_seconds + GRACE_SECONDS,
            shortcuts=Shortcuts(services, ENDPOINTS),
            tls=tls,
            lot=lot,
        )
        if tls is not None:
            followers.start_soon(tls.run, name="certificate")
        async with trio.open_nursery() as front:
            front.start_soon(_heed_signals, signals, server, hub, streams, keyring, settings, front)
            front.start_soon(_serve, server, front.cancel_scope)
            url = url_of(listener, encrypted=tls is not None)
            log.info("serving", url=url, position=format_id(the_log.position))
            task_status.started(url)
        flushers.cancel_scope.cancel()
        followers.cancel_scope.cancel()


def _engine(settings: Settings, storage: Storage, appender: Appender) -> Engine:
    """Make the actor that gives tasks to the engine of the settings."""
    wanted = settings.engine
    link: Link | None = None
    if wanted.queue is not None and storage.queue is not None:
        link = QueueLink(storage.queue, wanted.queue)
    elif wanted.url is not None:
        link = HttpLink(wanted.url, wanted.timeout_seconds)
    return Engine(
        link,
        storage.turn("engine"),
        storage.store,
        appender.append,
        max_bytes=settings.events.max_bytes,
        patience_seconds=wanted.patience_seconds,
        attempts=wanted.attempts,
    )


async def _serve(server: Server, front: trio.CancelScope) -> None:
    await server.run()
    front.cancel()


async def _heed_signals(
    signals: AsyncIterator[int],
    server: Server,
    hub: Hub,
    streams: StreamRegistry,
    keyring: Keyring,
    settings: Settings,
    front: trio.Nursery,
) -> None:
    terminal = sys.stderr.isatty()
    async for number in signals:
        # A closed terminal also sends SIGHUP; this process then ends with it, as is usual.
        if number == signal.SIGHUP and sys.stderr.isatty() == terminal:
            log.info("reloading", signal="SIGHUP")
            keyring.look_now()
            if server.tls is not None:
                server.tls.look()
            continue
        if server.stopping:
            log.warning("stopping at once", signal=signal.Signals(number).name)
            front.cancel_scope.cancel()
            return
        log.info("draining", signal=signal.Signals(number).name, streams=len(streams.streams))
        hub.flush_all()
        server.stop_accepting()
        front.start_soon(drain, streams, settings.server.drain_seconds)


@attrs.frozen
class Staff:
    """The actors that run under a node's storage; they outlive everything that appends.

    Args:
        actors: The actors by name.
        stats: Returns a snapshot of their counters.
        clock: The clock that retention uses.
    """

    actors: Mapping[str, Callable[[], Awaitable[None]]]
    stats: Callable[[], StorageStats]
    clock: Clock

    @classmethod
    def of(cls, storage: Storage, artifacts: Artifacts, settings: Settings) -> Staff:
        """Make the actors that a form of storage needs."""
        clock = Clock(lambda: storage.log.position, others=lambda: storage.clocks)
        retention = Retention(storage.keeper, artifacts, settings.retention, clock)
        archiver = None if storage.archive is None else Archiver(storage.archive)
        bridge = None if storage.listener is None else Bridge(storage.listener, settings.events.max_bytes)
        named = {"retention": retention, "archiver": archiver, "bridge": bridge}
        actors = {name: actor.run for name, actor in named.items() if actor is not None}

        def stats() -> StorageStats:
            return StorageStats(
                retention.stats(),
                storage.log_stats(),
                None if archiver is None else archiver.stats(),
                None if bridge is None else bridge.stats(),
            )

        return cls({**storage.background, **actors}, stats, clock)


def open_storage(settings: Settings) -> AbstractAsyncContextManager[Storage]:
    """Open the log and the store that the settings name."""
    key_ttl = timedelta(seconds=settings.events.key_ttl_seconds)
    prices = Prices(settings.prices)
    where = settings.storage
    if where.database_url is not None and where.redis_url is not None:
        # Here, since the drivers of PostgreSQL and Redis take 30 MiB, which the embedded form never needs.
        from heliograph.storage.distributed import open_distributed

        return open_distributed(
            where.database_url, where.redis_url, settings.postgres, settings.redis, key_ttl, prices
        )
    return open_embedded(where.data, key_ttl, prices)


def open_artifacts(settings: Settings) -> Artifacts:
    """Open the storage of artifacts: the bucket or the folder that the settings name.

    Raises:
        SettingsError: The bucket can't be used.
    """
    if settings.artifacts.url is not None:
        return ObjectArtifacts(open_bucket(settings.artifacts.url))
    return FolderArtifacts(settings.artifacts.folder or settings.storage.data / "artifacts")


def migrate(settings: Settings) -> str:
    """Migrate the database that the settings name to the current schema; return a sentence about the outcome.

    Raises:
        SettingsError: The database can't be used, or its schema is newer than this program.
        Unavailable: The database is away.
    """
    url = settings.storage.database_url
    place = str(settings.storage.data) if url is None else hide_password(url)
    if url is None:
        found = migrate_sqlite(settings.storage.data)
    else:
        from heliograph.storage.distributed import migrate_database

        found = migrate_database(url)
    if found == HEAD:
        return f"{place} has the schema {HEAD} already: nothing to do"
    return f"{place} has the schema {HEAD} now; before it had {found or 'none'}"


M_ARENA_MAX = -8
"""The most heaps, in glibc's ``malloc.h``."""
HEAPS = 4
"""The most heaps of the process."""


def tune_process() -> None:
    """Prepare the process for many connections: as many files as allowed, few garbage collections, few heaps.

    A full collection walks every object of every stream; by default CPython would do so again and again while
    thousands connect. Streams are freed by reference counts (they break their cycles when they close), so the
    collector only has to find the frameworks' garbage, which can wait. The middle generation is collected
    often: the work is the same, but 100,000 objects take 15 ms, and 400,000 of one large request 60 at once.

    glibc gives each thread a heap of its own, up to eight per processor, and each keeps what it once needed.
    So the threads share ``HEAPS``: a large log then takes 20 MB to read, not 33. With two heaps it takes 12,
    but each burst to 200 watchers costs 4 % more CPU.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.freeze()
    gc.set_threshold(20_000, 5, 200)
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(M_ARENA_MAX, HEAPS)


def open_to_all(settings: Settings, keyring: Keyring) -> str | None:
    """Return the fault of serving other addresses than loopback without keys; none if there is no fault."""
    host = settings.server.host
    if settings.auth.open_networks:
        log.warning("no key is needed from these networks", networks=settings.auth.open_networks)
    elif not is_loopback(host) and not settings.auth.keys and not keyring.keys:
        if keyring.loaded:
            return (
                f"server.host: {host} is not loopback; make a key first (heliograph keys add NAME, or "
                "HELIOGRAPH_API_KEYS), or bind to 127.0.0.1"
            )
        log.warning("nobody is let in until the keys can be read")
    server = settings.server
    if not is_loopback(host) and server.tls_cert is None and not server.trusted_proxies:
        log.warning(
            "keys travel in the clear",
            host=host,
            mend="set HELIOGRAPH_TLS_CERT, or name the proxy that encrypts in HELIOGRAPH_TRUSTED_PROXIES",
        )
    return None


def sweep_interval(settings: Settings) -> float:
    """Return the seconds between two sweeps of the streams, short enough for the shortest deadline."""
    streams = settings.streams
    shortest = min(
        streams.keepalive_seconds,
        streams.pong_seconds,
        streams.rotate_seconds,
        streams.first_message_seconds,
    )
    return min(1.0, shortest / 4)


def url_of(listener: socket.socket, *, encrypted: bool) -> str:
    """Return the URL of a listener."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if encrypted else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
