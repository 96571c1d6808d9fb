"""The composition root: the only place that wires, and whose nesting is the order of start and of stop.

Reading inwards is starting, reading outwards is stopping: storage is opened first and closed last;
inside it the appender, which must outlive every publisher; then what follows the log (subscriber and
hub); then the streams' own tasks; innermost the front, which ends first. A crash in any actor cancels
everything inside and ends the process loudly.
"""

from __future__ import annotations

import gc
import resource
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from ipaddress import ip_address

import structlog
import trio

from heliograph.actors.appender import Appender
from heliograph.actors.hub import Hub
from heliograph.actors.subscriber import Subscriber
from heliograph.actors.sweeper import Sweeper
from heliograph.config import Settings
from heliograph.http.app import Services, create_app
from heliograph.http.auth import Authenticator
from heliograph.http.server import Server, open_listener
from heliograph.http.stream import StreamRegistry, drain
from heliograph.model.errors import SettingsError
from heliograph.storage.protocols import Log, Store
from heliograph.storage.sqlite import migrate_sqlite, open_sqlite
from heliograph.storage.store import SqlStore

log = structlog.get_logger(__name__)

GRACE_SECONDS = 0.5
"""What is left for requests and farewells after the drain window."""


async def run(settings: Settings, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal stops at once.

    Reports the URL it serves as its started value.

    Raises:
        SettingsError: Something in the settings can't be used: the address, the folder, the database.
    """
    refuse_open_bind(settings)
    tune_process()
    # Outermost, so that an impatient second signal never strikes while storage is being closed.
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        await _run_storage(settings, signals, task_status)
    log.info("stopped")


async def _run_storage(
    settings: Settings, signals: AsyncIterator[int], task_status: trio.TaskStatus[str]
) -> None:
    async with open_storage(settings) as (the_log, store):
        listener = open_listener(settings.server.host, settings.server.port, settings.server.backlog)
        async with listener, trio.open_nursery() as writers:
            appender = Appender(the_log, settings.events.append_queue)
            writers.start_soon(appender.run, name="appender")
            try:
                await _run_streams(settings, the_log, store, appender, listener, signals, task_status)
            finally:
                appender.close()


async def _run_streams(
    settings: Settings,
    the_log: Log,
    store: Store,
    appender: Appender,
    listener: trio.SocketListener,
    signals: AsyncIterator[int],
    task_status: trio.TaskStatus[str],
) -> None:
    async with trio.open_nursery() as followers, trio.open_nursery() as flushers:
        start = the_log.position
        hub = Hub(
            the_log,
            start,
            flush_seconds=settings.streams.flush_ms / 1000,
            ring_events=settings.streams.ring_events,
            ring_bytes=settings.streams.ring_bytes,
            linger_seconds=settings.streams.linger_seconds,
        )
        subscriber = Subscriber(the_log, start, [hub.inbox])
        followers.start_soon(hub.run, name="hub")
        followers.start_soon(subscriber.run, name="subscriber")
        streams = StreamRegistry(settings.streams, flushers.start_soon)
        sweeper = Sweeper(lambda: streams.streams, sweep_interval(settings))
        followers.start_soon(sweeper.run, name="sweeper")

        async def ready() -> dict[str, str | None]:
            checkpoint = await store.checkpoint()
            behind = subscriber.stats().position < the_log.position
            return {
                "log": None,
                "store": None if checkpoint >= the_log.position else "the fold is behind the log",
                "subscriber": "catching up with the log" if behind else None,
            }

        app = create_app(
            Services(
                settings=settings,
                log=the_log,
                store=store,
                appender=appender,
                subscriber=subscriber,
                hub=hub,
                streams=streams,
                authenticator=Authenticator(settings.auth),
                ready=ready,
            )
        )
        server = Server(
            app,
            listener,
            write_timeout=settings.server.write_timeout,
            idle_timeout=settings.server.idle_timeout,
            grace=settings.server.drain_seconds + GRACE_SECONDS,
        )
        async with trio.open_nursery() as front:
            front.start_soon(_stop_on_signal, signals, server, hub, streams, settings, front)
            front.start_soon(_serve, server, front.cancel_scope)
            url = url_of(listener)
            log.info("serving", url=url, position=the_log.position)
            task_status.started(url)
        flushers.cancel_scope.cancel()
        followers.cancel_scope.cancel()


async def _serve(server: Server, front: trio.CancelScope) -> None:
    await server.run()
    front.cancel()


async def _stop_on_signal(
    signals: AsyncIterator[int],
    server: Server,
    hub: Hub,
    streams: StreamRegistry,
    settings: Settings,
    front: trio.Nursery,
) -> None:
    async for number in signals:
        if server.stopping:
            log.warning("stopping at once", signal=signal.Signals(number).name)
            front.cancel_scope.cancel()
            return
        log.info("draining", signal=signal.Signals(number).name, streams=len(streams.streams))
        hub.flush_all()
        server.stop_accepting()
        front.start_soon(drain, streams, settings.server.drain_seconds)


@asynccontextmanager
async def open_storage(settings: Settings) -> AsyncIterator[tuple[Log, Store]]:
    """Open the log and the store that the settings name."""
    key_ttl = timedelta(seconds=settings.events.key_ttl_seconds)
    async with open_sqlite(settings.storage.data, key_ttl) as (the_log, database):
        yield the_log, SqlStore(database)


def migrate(settings: Settings) -> None:
    """Bring the database that the settings name to today's schema.

    Raises:
        SettingsError: It can't be used, or its schema is newer than this program.
    """
    migrate_sqlite(settings.storage.data)


def tune_process() -> None:
    """Fit the process to many connections: as many files as allowed, and few collections of cycles.

    A full collection walks every object of every stream; by default CPython would do so again and again
    while thousands connect. Streams are freed by reference counts (they break their cycles when they
    close), so what is left for the collector is the frameworks' garbage, which can wait.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def refuse_open_bind(settings: Settings) -> None:
    """Serve nothing but loopback as long as everybody may do everything.

    Raises:
        SettingsError: The host is not loopback and there are no keys.
    """
    host = settings.server.host
    try:
        loopback = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not settings.auth.keys:
        raise SettingsError(
            [f"server.host: {host} is not loopback; set HELIOGRAPH_API_KEYS first, or bind to 127.0.0.1"]
        )


def sweep_interval(settings: Settings) -> float:
    """Return how often streams are looked at: often enough for the shortest of their deadlines."""
    streams = settings.streams
    shortest = min(
        streams.keepalive_seconds,
        streams.pong_seconds,
        streams.rotate_seconds,
        streams.first_message_seconds,
    )
    return min(1.0, shortest / 4)


def url_of(listener: trio.SocketListener) -> str:
    """Return the URL of a listener."""
    host, port = listener.socket.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
