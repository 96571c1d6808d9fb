"""The forms of storage, each with data of its own for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import make_url
from tests.storages import DistributedForm, Form, SqliteForm, migrated_database, new_database

from heliograph.storage.settings import RedisSettings


@pytest.fixture(scope="session")
def template(postgres_url: str) -> Iterator[str]:
    """Return the name of a migrated, empty database to make others from."""
    with migrated_database(postgres_url) as url:
        name = make_url(url).database
        assert name is not None
        yield name


@pytest.fixture(params=["sqlite", "distributed"])
def form(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Form]:
    """Return each form in turn."""
    if request.param == "sqlite":
        yield SqliteForm(tmp_path / "data")
    else:
        yield request.getfixturevalue("distributed")


@pytest.fixture
def distributed(redis_url: str, postgres_url: str, template: str) -> Iterator[DistributedForm]:
    """Return the distributed form."""
    with new_database(postgres_url, template) as url:
        yield DistributedForm(url, redis_url, RedisSettings(prefix=f"test-{uuid4().hex}"))
