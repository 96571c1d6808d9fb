"""A machine whose clock is wrong when it starts hears so from its servers."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from tests.storages import DistributedForm, migrated_database

from heliograph.storage.distributed import form as module
from heliograph.storage.settings import RedisSettings


@pytest.mark.parametrize("ahead", [0, 86_400, -86_400])
async def test_the_clocks_are_compared_before_anything_goes_by_them(
    postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """As soon as the storage is open it tells how far this machine's clock is from those of its servers."""

    class Wrong:
        """The module's clock."""

        @staticmethod
        def time() -> float:
            """Tell the time."""
            return time.time() + ahead

    monkeypatch.setattr(module, "time", Wrong)
    with migrated_database(postgres_url) as url:
        form = DistributedForm(url, redis_url, RedisSettings(prefix=f"clocks{ahead}", bridge=""))
        async with form.node(timedelta(days=1)) as node:
            found = {name: round(seconds / 1000) for name, seconds in node.clocks.items()}
            assert found == dict.fromkeys(("Redis", "PostgreSQL"), round(ahead / 1000))
