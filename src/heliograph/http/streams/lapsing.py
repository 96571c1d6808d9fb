"""News of keys: what a node does when some were made, were revoked or have expired."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import structlog

from heliograph.actors.audit import Audit
from heliograph.actors.keyring import KeyChange
from heliograph.http.rules.auth import Authenticator
from heliograph.http.streams.reason import Reason
from heliograph.http.streams.registry import StreamRegistry

log = structlog.get_logger(__name__)

REASONS = {"revoked": Reason.REVOKED, "expired": Reason.EXPIRED}


@attrs.frozen
class KeyNews:
    """Hears what the keyring has found.

    Args:
        authenticator: Lets keys in.
        streams: The open streams; those of a key that lapses end.
        audit: Is told of every change.
        configured: Names of keys of the settings, which go before those of the keyring.
    """

    authenticator: Authenticator
    streams: StreamRegistry
    audit: Audit
    configured: frozenset[str] = frozenset()

    async def hear(self, changes: Sequence[KeyChange]) -> None:
        """Let new keys in, and end what those have open that lapse."""
        was_open = self.authenticator.open
        self.authenticator.learn()
        if was_open and not self.authenticator.open:
            log.warning("a key is asked for from now on")
        self.audit.keys(change.key for change in changes)
        lapsed = {}
        for change in changes:
            name = change.key.name
            if name in self.configured:
                if change.was is None:
                    log.error("a key of the settings has the name of one that is kept", name=name)
                continue
            if change.state in REASONS:
                lapsed[name] = REASONS[change.state]
            if change.state == "active":
                log.info("key known", name=name, scopes=change.key.scopes)
            elif change.was is not None:
                log.warning(f"key {change.state}", name=name, by=change.key.revoked_by)
        if lapsed:
            await self.streams.end_of_keys(lapsed)
