"""What the URLs of the distributed form may look like, and what is said of those that can't be read."""

from __future__ import annotations

from typing import Any

import pytest
from redis.connection import AbstractConnection
from redis.sentinel import SentinelConnectionPool

from heliograph.model.errors import SettingsError
from heliograph.storage.distributed.postgres import database_url
from heliograph.storage.distributed.redis_client import connect
from heliograph.storage.settings import RedisSettings


@pytest.mark.parametrize(
    ("query", "mode"),
    [
        ("", None),
        ("?sslmode=require", "require"),
        ("?ssl=require", "require"),
        ("?ssl=verify-full", "verify-full"),
        ("?ssl=true", "require"),
        ("?ssl=False", "disable"),
    ],
)
@pytest.mark.parametrize("driver", ["postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg2"])
def test_postgres_in_the_words_of_any_driver(driver: str, query: str, mode: str | None) -> None:
    """Every driver's form of the URL, and of asking for TLS, means the same."""
    url = database_url(f"{driver}://u:p%40@h:5433/d{query}")
    assert (url.drivername, url.username, url.password, url.host, url.port, url.database) == (
        *("postgresql+psycopg", "u", "p@"),
        *("h", 5433, "d"),
    )
    assert url.query.get("sslmode") == mode
    assert "ssl" not in url.query


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://h/d", "sqlite:///x", "http://h"])
def test_what_is_no_postgres_url_is_named(url: str) -> None:
    """The error names the setting and the form."""
    with pytest.raises(SettingsError, match=r"storage\.database_url: must be postgresql://"):
        database_url(url)


def greet(connection: AbstractConnection) -> None:
    """Never called: nothing connects here."""


def test_sentinels_are_named_in_the_url() -> None:
    """Addresses, service, database, credentials and TLS are taken from one URL."""
    url = "rediss+sentinel://u:p%40@a:1,b,[::1]:3/main/4?ssl_ca_certs=/x&sentinel_password=s"
    client = connect(url, RedisSettings(timeout=2), greet)
    pool = client.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert pool.service_name == "main"
    asked = [one.connection_pool for one in pool.sentinel_manager.sentinels]
    addresses = [(one.connection_kwargs["host"], one.connection_kwargs["port"]) for one in asked]
    assert addresses == [("a", 1), ("b", 26379), ("::1", 3)]
    made: Any = pool.make_connection()
    assert (made.username, made.password, made.db) == ("u", "p@", 4)
    sentinel: Any = asked[0].make_connection()
    assert (sentinel.username, sentinel.password) == (None, "s")
    for connection in (made, sentinel):
        assert (connection.ca_certs, connection.socket_timeout) == ("/x", 2)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "http://h",
        "redis+sentinel://",
        "redis+sentinel://h:26379",
        "redis+sentinel://h:x/main",
    ],
)
def test_what_is_no_redis_url_is_named(url: str) -> None:
    """The error names the setting and the forms."""
    with pytest.raises(SettingsError, match=r"storage\.redis_url: must be redis://"):
        connect(url, RedisSettings(), greet)
