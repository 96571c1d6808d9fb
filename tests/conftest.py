"""Servers that every test may use, started at the first test that needs them, and how tests run.

Property tests have no deadlines of their own and try the same examples on every machine. ``make test`` runs
on several workers, each with servers of its own; the tests of the group ``demanding`` run one at a time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings
from tests.servers import postgres_server, redis_server

# Programs inherit an ignored SIGINT, as everything has that a shell started in the background; the tests
# that press Ctrl-C need it as a terminal leaves it.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("everywhere", deadline=None, derandomize=True, print_blob=False)
settings.register_profile("search", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("everywhere")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return how many workers ``-n auto`` starts: one more than processors, as much of the suite waits."""
    return min((os.cpu_count() or 1) + 1, 8)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Return the URL of a Redis server, ``TEST_REDIS_URL`` if it is set."""
    if url := os.environ.get("TEST_REDIS_URL"):
        yield url
        return
    with redis_server() as server:
        yield server.url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Return the URL of a PostgreSQL server's database for administration, ``TEST_DATABASE_URL`` if set."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    with postgres_server() as server:
        yield server.url()
