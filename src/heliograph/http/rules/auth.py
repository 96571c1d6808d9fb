"""Who asks, and what they may do.

Keys are known by their SHA-256 only. Without any configured key everybody is the local user, and the
service then binds to loopback only (``service`` sees to that). Browsers can't set headers on
EventSource and WebSocket, so a key buys a short-lived signed ticket for the query string; any node
with the same keys accepts it.
"""

from __future__ import annotations

import hashlib
import secrets
import time

import attrs
from itsdangerous import BadData, SignatureExpired, URLSafeTimedSerializer

from heliograph.config import SCOPES, AuthSettings
from heliograph.http.rules.asked import Fields
from heliograph.model.channels import selector_covers
from heliograph.model.errors import Forbidden, Unauthenticated


@attrs.frozen
class Identity:
    """A known caller.

    Args:
        name: The key's name.
        scopes: What it may do: ``read``, ``publish``, ``admin``.
        channels: Selectors that it may read and publish; empty: all.
    """

    name: str
    scopes: tuple[str, ...]
    channels: tuple[str, ...] = ()

    def require(self, scope: str, *selectors: str) -> None:
        """Check a scope, and that it covers all these channels or patterns.

        Raises:
            Forbidden: It does not.
        """
        self.require_scope(scope)
        for selector in selectors:
            self.require_channel(selector)

    def require_scope(self, scope: str) -> None:
        """Check a scope.

        Raises:
            Forbidden: The key has not this one.
        """
        if scope not in self.scopes:
            raise Forbidden(f"this needs the scope {scope}; {self.name} has {', '.join(self.scopes)}")

    def require_channel(self, selector: str) -> None:
        """Check that a channel, or a pattern of channels, is covered.

        Raises:
            Forbidden: It is not.
        """
        if self.channels and not any(selector_covers(one, selector) for one in self.channels):
            raise Forbidden(f"{self.name} may not use the channel {selector}")


CREDENTIALS = "Authorization, X-API-Key"
"""The headers that tell who asks."""

LOCAL = Identity("local", SCOPES)
"""Everybody, when no keys are configured."""

NOBODY = Identity("anonymous", ())
"""A caller that need not say who it is, or has not done so yet."""


class Authenticator:
    """Tells callers apart by key or ticket."""

    def __init__(self, settings: AuthSettings) -> None:
        self._identities = {key.sha256: Identity(key.name, key.scopes, key.channels) for key in settings.keys}
        self._names = {identity.name: identity for identity in self._identities.values()}
        self._ticket_seconds = settings.ticket_seconds
        secret = "".join(sorted(self._identities)) or secrets.token_hex()
        self._tickets = URLSafeTimedSerializer(secret, salt="heliograph stream ticket")

    @property
    def open(self) -> bool:
        """Whether no keys are configured."""
        return not self._identities

    def from_headers(self, headers: Fields, ticket: str | None = None) -> Identity | None:
        """Identify a request; ``None`` when it carries no credentials but needs them.

        Raises:
            Unauthenticated: It carries wrong ones.
        """
        if self.open:
            return LOCAL
        key = headers.get("X-API-Key")
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if key is None and scheme.lower() == "bearer":
            key = token.strip()
        if key is None and ticket is None:
            return None
        return self.authenticate(key, ticket)

    def require(self, headers: Fields, ticket: str | None = None) -> Identity:
        """Identify a request that must not be anonymous.

        Raises:
            Unauthenticated: It carries no credentials but needs them, or wrong ones.
        """
        who = self.from_headers(headers, ticket)
        if who is None:
            raise Unauthenticated("send X-API-Key or Authorization: Bearer")
        return who

    def authenticate(self, key: str | None, ticket: str | None) -> Identity:
        """Identify a key or a ticket.

        Raises:
            Unauthenticated: It is unknown, or the ticket is too old.
        """
        if self.open:
            return LOCAL
        if key is not None:
            identity = self._identities.get(hashlib.sha256(key.encode()).hexdigest())
            if identity is None:
                raise Unauthenticated("unknown API key")
            return identity
        try:
            name = self._tickets.loads(ticket or "", max_age=int(self._ticket_seconds))
        except BadData as error:
            why = "has expired" if isinstance(error, SignatureExpired) else "is none of ours"
            raise Unauthenticated(f"the ticket {why}; ask for another") from None
        if name not in self._names:
            raise Unauthenticated("the ticket is of a key that has another name now")
        return self._names[name]

    def ticket_for(self, identity: Identity) -> tuple[str, float]:
        """Make a ticket; return it with the time (seconds since the epoch) at which it expires."""
        return self._tickets.dumps(identity.name), time.time() + self._ticket_seconds
