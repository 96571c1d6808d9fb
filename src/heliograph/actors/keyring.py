"""The keyring: the API keys in the vault, as this node knows them.

The vault is the only place of the keys. ``heliograph keys`` changes it, and every node reads it twice a
second, and at once on SIGHUP. Each reading is compared with the one before, and the changes go to
``on_look``, which accepts new keys and ends the streams of revoked and expired ones. Between two readings an
expiry is noticed by the clock alone.

While the vault is away the known keys stay in force: an outage loses no key, and none is accepted or revoked.
Before the first reading (``loaded``) an unknown key may be a good one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

import attrs
import structlog
import trio

from heliograph.actors.retry import until_it_works
from heliograph.model.keys import State, StoredKey, stored_keys
from heliograph.storage.protocols import Vault

LOOK_SECONDS = 0.5
"""A revoked key's streams end within a second: after this time, and that of a reading."""

log = structlog.get_logger(__name__)


@attrs.frozen
class KeyChange:
    """A change of a key between two readings.

    Args:
        key: The key as it is now.
        was: The state before; ``None``: the key is new.
        state: The state now.
    """

    key: StoredKey
    was: State | None
    state: State


@attrs.define
class Keyring:
    """The keys in the vault.

    Args:
        vault: The vault that keeps the keys.
        on_look: Called with the changes after each reading, when ``keys`` has them; at first with all keys.

    Attributes:
        keys: The keys by name, including revoked and expired ones.
        loaded: Whether the vault was read.
    """

    vault: Vault
    on_look: Callable[[Sequence[KeyChange]], Awaitable[None]] | None = None
    keys: Mapping[str, StoredKey] = attrs.field(factory=dict, init=False)
    loaded: bool = attrs.field(default=False, init=False)
    _states: dict[str, State] = attrs.field(factory=dict, init=False)
    _broken: set[str] = attrs.field(factory=set, init=False)
    _rung: trio.Event = attrs.field(factory=trio.Event, init=False)

    def stats(self) -> Mapping[str, int]:
        """Count the keys by their state."""
        return Counter[str](self._states.values())

    def look_now(self) -> None:
        """Have the vault read at once."""
        self._rung.set()

    async def run(self) -> None:
        """Read the vault every ``LOOK_SECONDS``, for ever."""
        while True:
            await until_it_works(self.refresh, "looking for keys")
            with trio.move_on_after(LOOK_SECONDS):
                await self._rung.wait()
            self._rung = trio.Event()

    async def refresh(self) -> None:
        """Read the vault, and pass the changes to ``on_look``.

        Raises:
            Unavailable: The vault is away.
        """
        before = self.keys
        self.keys, broken = stored_keys(await self.vault.secrets())
        self.loaded = True
        for name in broken - self._broken:
            log.error("unreadable key", name=name)
        self._broken = broken
        now = time.time()
        changes = []
        for name, key in self.keys.items():
            was, state = self._states.get(name), key.state(now)
            if was != state:
                changes.append(KeyChange(key, was, state))
                self._states[name] = state
        changes += [  # the key was deleted otherwise than by ``heliograph keys``
            KeyChange(before[name], self._states.pop(name), "revoked")
            for name in before.keys() - self.keys.keys()
        ]
        if changes and self.on_look is not None:
            await self.on_look(changes)
