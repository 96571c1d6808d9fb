"""Servers that every test may use, started at the first test that needs them, and how tests run.

Property tests have no deadlines of their own and try the same examples on every machine. ``make test`` runs
on several workers, each with servers of its own; those in ``DEMANDING`` come one after the other on one.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from tests.servers import postgres_server, redis_server
from xdist.scheduler import LoadScopeScheduling

# Programs inherit an ignored SIGINT, as everything has that a shell started in the background; the tests
# that press Ctrl-C need it as a terminal leaves it.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("everywhere", deadline=None, derandomize=True, print_blob=False)
settings.register_profile("search", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("everywhere")


DEMANDING = (
    "tests/chaos/",
    "tests/conformance/test_crash.py",
    "tests/conformance/test_volume.py",
    "tests/http/test_hostile.py::test_a_crowd_of_them",
)
"""What wants the machine for itself, since it starts many processes or measures one."""


class OneDemanding(LoadScopeScheduling):  # type: ignore[misc]
    """Hands the demanding tests out as one unit, and first, as it is the largest; all others one by one.

    ``--dist loadgroup`` is meant for this, but xdist 3.8 keeps a group in a test's id, which pytest 9.2 does
    not let it change: the groups are passed over without a word.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "demanding" if nodeid.startswith(DEMANDING) else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneDemanding | None:
    """Use our order in place of ``--dist loadscope``."""
    return OneDemanding(config, log) if config.getvalue("dist") == "loadscope" else None


def pytest_xdist_auto_num_workers() -> int:
    """Return how many workers ``-n auto`` starts: one more than processors, as much of the suite waits.

    More than four are of no use: the demanding tests, one after the other, then take longest.
    """
    return min((os.cpu_count() or 1) + 1, 4)


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
