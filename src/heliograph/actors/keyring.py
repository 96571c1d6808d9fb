"""The keyring: the API keys in the vault, as this node knows them.

The vault is the only place where they are; ``heliograph keys`` changes it, and every node looks into it twice
a second, and at once when it is asked to (SIGHUP). What a look finds is compared with what was known: whoever
is told of it (``on_look``) lets new keys in, and ends what revoked and expired ones have open. Between two
looks an expiry is noticed by the clock alone.

While the vault is away, what is known goes on to hold: no key is lost by an outage, and none is let in or
revoked. Before the first look nothing is known (``loaded``), so an unknown key may be a good one.
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
"""A revoked key's streams end within a second: this, and the time that a look takes."""

log = structlog.get_logger(__name__)


@attrs.frozen
class KeyChange:
    """A change that a look found.

    Args:
        key: As it is now.
        was: The state before; ``None``: the key was not there.
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
        on_look: Is told of the changes that a look found, when ``keys`` has them; by the first look of all.

    Attributes:
        keys: By name, those that were revoked or have expired among them.
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
        """Count the keys by what has become of them."""
        return Counter[str](self._states.values())

    def look_now(self) -> None:
        """Have the vault looked into at once."""
        self._rung.set()

    async def run(self) -> None:
        """Look into the vault for ever."""
        while True:
            await until_it_works(self.refresh, "looking for keys")
            with trio.move_on_after(LOOK_SECONDS):
                await self._rung.wait()
            self._rung = trio.Event()

    async def refresh(self) -> None:
        """Read what the vault has, and tell what has changed.

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
        changes += [  # by other means than ours
            KeyChange(before[name], self._states.pop(name), "revoked")
            for name in before.keys() - self.keys.keys()
        ]
        if changes and self.on_look is not None:
            await self.on_look(changes)
