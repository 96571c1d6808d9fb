"""News of keys: what a node does when API keys were made, were revoked or have expired."""

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
    """Applies the changes of keys that the keyring has found.

    Args:
        authenticator: Accepts keys.
        streams: The open streams; those of a lapsed key end.
        audit: Told of every change.
        configured: Names of the keys in the settings, which take precedence over the keyring's.
    """

    authenticator: Authenticator
    streams: StreamRegistry
    audit: Audit
    configured: frozenset[str] = frozenset()

    async def on_changes(self, changes: Sequence[KeyChange]) -> None:
        """Accept new keys, and end the streams of lapsed ones."""
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
