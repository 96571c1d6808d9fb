"""Connections to Redis: redis-py's synchronous client, to be called in worker threads.

Nothing is retried here: a retried append without a key would be kept twice, and callers have their own ways
to wait for Redis. Every connection has a timeout, so a thread always comes back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, ConnectionPool, SSLConnection, parse_url
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from heliograph.model.errors import SettingsError, Unavailable
from heliograph.storage.settings import RedisSettings

_REFUSALS = re.compile(
    r"^(WRONGPASS|NOAUTH|NOPERM|invalid password|DB index|invalid username-password)"
    # a script's error, before Redis 7 and since
    r"|The user executing the script can't|ACL failure in script"
    r"|certificate verify failed|WRONG_VERSION_NUMBER"
)
_SCRIPT = re.compile(r"^Error running script \(call to f_\w+\): (?:@user_script: ?\d+: )+-?")
"""What Redis before version 7 says in front of a command's error in a script."""

_SENTINEL = re.compile(
    r"(?P<scheme>rediss?)\+sentinel://(?P<login>[^@/]*@)?(?P<sentinels>[^@/?]+)/(?P<service>[^/?]+)"
    r"(?P<rest>(?:/\d*)?(?:\?.*)?)"
)
SENTINEL_PORT = 26379

URL_HELP = (
    "must be redis://user:password@host:6379/0 or redis+sentinel://user:password@host:26379,…/service/0"
)


def connect(url: str, settings: RedisSettings, greet: Callable[[AbstractConnection], None]) -> Redis:
    """Make a client with a pool of its own; nothing is sent yet.

    Args:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://``, with redis-py's options in the query; or
            ``redis+sentinel://`` and ``rediss+sentinel://`` with the addresses of Sentinels, and the name
            under which they watch Redis; ``sentinel_username`` and ``sentinel_password`` in the query are
            the Sentinels' own credentials.
        settings: The timeout.
        greet: Called with each new connection in place of its own ``on_connect``.

    Raises:
        SettingsError: Not a Redis URL.
    """
    watched = _SENTINEL.fullmatch(url)
    if watched is not None:
        url = "{scheme}://{login}redis{rest}".format(**watched.groupdict(default=""))
    try:
        target: dict[str, Any] = dict(parse_url(url))
        sentinels = [_address(one) for one in watched["sentinels"].split(",")] if watched else []
    except ValueError as error:
        raise SettingsError([f"storage.redis_url: {URL_HELP}: {error} (REDIS_URL)"]) from None
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
    if watched is None:
        return Redis.from_pool(ConnectionPool(**arguments))
    del arguments["host"]
    secure = arguments.pop("connection_class", None) is SSLConnection
    own = {name: arguments.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    certificates = {name: value for name, value in target.items() if name.startswith("ssl_")}
    asked = Sentinel(sentinels, sentinel_kwargs={**bounds, **own, **certificates, "ssl": secure})
    client: Redis = asked.master_for(watched["service"], **arguments, ssl=secure)
    return client


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or SENTINEL_PORT


def refusal(error: BaseException | None) -> str | None:
    """Return the refusal of a server that can be reached; ``None`` if it is merely away."""
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
        raise Unavailable(refusal(error) or f"Redis: {_SCRIPT.sub('', str(error))}") from error


@contextmanager
def refusals_named() -> Iterator[None]:
    """Like ``translated``, but a refusal is a ``SettingsError``: for the start, where it can be mended.

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
