"""Servers that may be killed: not those that other tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.deployment import Node
from tests.servers import PostgresServer, RedisServer, postgres_server, redis_server
from tests.storages import migrated_template, new_database

HERE = Path(__file__).parent
NodeMaker = Callable[..., Node]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test in here."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.chaos)


@pytest.fixture(scope="session")
def mortal_postgres() -> Iterator[PostgresServer]:
    """Return the PostgreSQL server of all tests in here."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def mortal_template(mortal_postgres: PostgresServer) -> Iterator[str]:
    """Return the name of a migrated, empty database to make others from."""
    with migrated_template(mortal_postgres.url()) as name:
        yield name


@pytest.fixture
def postgres(mortal_postgres: PostgresServer) -> PostgresServer:
    """Return a PostgreSQL server that runs, whatever the test before did to it."""
    if not mortal_postgres.running:
        mortal_postgres.start()
    return mortal_postgres


@pytest.fixture
def database_url(postgres: PostgresServer, mortal_template: str) -> Iterator[str]:
    """Return the URL of a database with the schema."""
    with new_database(postgres.url(), mortal_template) as url:
        yield url
        if not postgres.running:
            postgres.start()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """Return a Redis server of this test."""
    with redis_server() as server:
        yield server


@pytest.fixture
def make_node(tmp_path: Path, database_url: str, redis: RedisServer) -> Iterator[NodeMaker]:
    """Make nodes that are not started yet, and end them."""
    with ExitStack() as stack:

        def make(name: str, **other: Any) -> Node:
            arguments = {"database_url": database_url, "redis_url": redis.url, **other}
            node = Node(tmp_path / name, **arguments)
            stack.callback(node.kill)
            return node

        yield make
