"""Signing secrets are shared, rotated, and believed as long as what they signed may live."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from heliograph.actors import signing
from heliograph.actors.signing import KEPT_SECONDS, ROTATE_SECONDS, SETTLED_SECONDS, SigningSecrets


class MemoryVault:
    """A vault that forgets everything at its end."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {"webhook/x": "another's"}

    async def secrets(self) -> Mapping[str, str]:
        """Return all of them."""
        return dict(self.kept)

    async def keep(self, name: str, secret: str | None) -> None:
        """Keep one, or forget it."""
        if secret is None:
            del self.kept[name]
        else:
            self.kept[name] = secret


class Clock:
    """A clock that is set by hand."""

    now = 1_000_000_000.0

    def time(self) -> float:
        """Return its time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Put a clock in the place of the system's."""
    made = Clock()
    monkeypatch.setattr(signing, "time", made)
    return made


async def test_nodes_share_a_secret(clock: Clock) -> None:
    """The first node makes a secret, the others find it; it is none that can be guessed."""
    vault = MemoryVault()
    one, two = SigningSecrets(vault), SigningSecrets(vault)
    alone = one.current
    await one.refresh()
    await two.refresh()
    assert one.current == two.current != alone
    assert len(one.current[0]) == 64


async def test_a_secret_is_replaced_in_time(clock: Clock) -> None:
    """A new secret signs when all nodes have seen it; the old one is believed a while."""
    vault = MemoryVault()
    node = SigningSecrets(vault)
    await node.refresh()
    (first,) = node.current
    clock.now += ROTATE_SECONDS + 1
    await node.refresh()
    assert node.current[-1] == first
    assert len(node.current) == 2
    clock.now += SETTLED_SECONDS
    assert node.current[0] == first
    second = node.current[-1]
    clock.now += KEPT_SECONDS - ROTATE_SECONDS
    await node.refresh()
    assert node.current == [second]
    assert "webhook/x" in vault.kept


async def test_a_vault_is_not_needed() -> None:
    """Without a vault there is a secret of this process alone."""
    node = SigningSecrets()
    await node.refresh()
    assert node.current == node.current
    assert node.current != SigningSecrets().current
