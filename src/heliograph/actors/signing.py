"""The secrets that tickets and sessions are signed with: random, kept in the vault, and rotated.

All nodes share them through the vault, and read it once a minute. A new secret signs only after every node
has had time to read it. A replaced one is accepted for as long as anything that it signed is valid. The
secrets are unrelated to the API keys: a key's hash is of no use for signing, and a ticket tells nothing about
a key.
"""

from __future__ import annotations

import secrets
import time

import attrs
import trio

from heliograph.actors.retry import until_it_works
from heliograph.storage.protocols import Vault

PREFIX = "signing/"
LOOK_SECONDS = 60.0
SETTLED_SECONDS = 3 * LOOK_SECONDS
ROTATE_SECONDS = 7 * 86400.0
KEPT_SECONDS = ROTATE_SECONDS + 2 * 86400.0


@attrs.define
class SigningSecrets:
    """The secrets in force.

    Args:
        vault: The vault that keeps them; ``None``: one secret, of this process alone.
    """

    vault: Vault | None = None
    _made: dict[float, str] = attrs.field(factory=dict, init=False)
    _own: str = attrs.field(factory=secrets.token_hex, init=False)

    @property
    def current(self) -> list[str]:
        """All accepted secrets; the last one signs."""
        if not self._made:
            return [self._own]  # the vault has not been reached yet
        settled = time.time() - SETTLED_SECONDS
        oldest = min(self._made)
        order = sorted(self._made, key=lambda made: (made <= settled or made == oldest, made))
        return [self._made[made] for made in order]

    async def run(self) -> None:
        """Read the vault once a minute, for ever, and add a new secret when the newest one is old."""
        while True:
            await until_it_works(self.refresh, "reading the signing secrets")
            await trio.sleep(LOOK_SECONDS)

    async def refresh(self) -> None:
        """Read the vault's secrets; add a new one and remove old ones when that is due.

        Raises:
            Unavailable: The vault is away.
        """
        if self.vault is None:
            return
        now = time.time()
        made = await self._read()
        if not made or now - max(made) > ROTATE_SECONDS:
            await self.vault.keep(f"{PREFIX}{now:.0f}", secrets.token_hex())
            made = await self._read()
        for moment in [moment for moment in made if now - moment > KEPT_SECONDS and moment != max(made)]:
            await self.vault.keep(f"{PREFIX}{moment:.0f}", None)
            del made[moment]
        self._made = made

    async def _read(self) -> dict[float, str]:
        assert self.vault is not None
        kept = await self.vault.secrets()
        return {
            float(name.removeprefix(PREFIX)): secret
            for name, secret in kept.items()
            if name.startswith(PREFIX)
        }
