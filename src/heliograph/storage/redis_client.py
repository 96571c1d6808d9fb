"""Connections to Redis: redis-py's synchronous client, to be called in worker threads.

Nothing is retried in here: a retried append without a key would be kept twice, and whoever waits for
Redis has its own way to wait. Every connection is bounded by a timeout, so a thread always comes back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, ConnectionPool, SSLConnection, parse_url
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from heliograph.model.errors import SettingsError, Unavailable
from heliograph.storage.settings import RedisSettings

_REFUSALS = re.compile(r"^(WRONGPASS|NOAUTH|NOPERM|invalid password|DB index|invalid username-password)")


def connect(url: str, settings: RedisSettings, greet: Callable[[AbstractConnection], None]) -> Redis:
    """Make a client with a pool of its own; nothing is sent yet.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, with what redis-py takes in its query.
        settings: Timeout and Sentinels.
        greet: Called with each new connection in place of its own ``on_connect``.

    Raises:
        SettingsError: Not a Redis URL.
    """
    try:
        target: dict[str, Any] = dict(parse_url(url))
    except ValueError as error:
        raise SettingsError(
            [f"storage.redis_url: must be redis://:password@host:6379/0: {error} (REDIS_URL)"]
        ) from None
    bounds = {"socket_timeout": settings.timeout, "socket_connect_timeout": settings.timeout}
    arguments: dict[str, Any] = {
        **bounds,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "client_name": "heliograph",
        "redis_connect_func": greet,
        **target,
    }
    if not settings.sentinels:
        return Redis.from_pool(ConnectionPool(**arguments))
    for name in ("host", "port"):
        arguments.pop(name, None)
    arguments["ssl"] = arguments.pop("connection_class", None) is SSLConnection
    watchers = Sentinel([_address(one) for one in settings.sentinels], sentinel_kwargs=bounds)
    client: Redis = watchers.master_for(settings.sentinel_master, **arguments)
    return client


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and port.isdecimal()):
        raise SettingsError([f"redis.sentinels: must be host:port, got {text!r}"])
    return host.strip("[]"), int(port)


def refusal(error: BaseException | None) -> str | None:
    """Return what a server that is there refused, ``None`` when it is merely away."""
    refused = isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError)
    if refused or _REFUSALS.search(str(error)):
        return f"storage.redis_url: {error} (REDIS_URL)"
    return None


@contextmanager
def translated() -> Iterator[None]:
    """Turn the client's errors into ``Unavailable``.

    Raises:
        Unavailable: Redis is away, refuses, or can't write.
    """
    try:
        yield
    except RedisError as error:
        raise Unavailable(refusal(error) or f"Redis: {error}") from error


@contextmanager
def refusals_named() -> Iterator[None]:
    """Like ``translated``, but a refusal is an error of the settings: for those who can still mend them.

    Raises:
        SettingsError: Redis refuses.
        Unavailable: Redis is away.
    """
    try:
        with translated():
            yield
    except Unavailable as error:
        refused = refusal(error.__cause__)
        if refused is not None:
            raise SettingsError([refused]) from error
        raise
