"""Authentication: the caller of a request, and the caller's rights.

Keys are known by their SHA-256 only: those of the settings, and those in the vault (``actors.keyring``),
which come and go while this runs. Where there never was any key everybody is the local user, and the service
then binds to loopback only (``service`` sees to that), unless networks are named that need none; to revoke
the last key opens nothing.

Two signed texts stand for a key: a short-lived *ticket* for the query string, since browsers can't set
headers on EventSource and WebSocket, and a *session*, the cookie of our own page. Any node with the same
keys and signing secrets (``actors.signing``) accepts them; each is good for its own purpose alone. A third, a
*task key*, is sent as a key is, and reaches one task: the program that the task runs need not be trusted with
more.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from typing import Any

import attrs
from itsdangerous import BadData, SignatureExpired, URLSafeTimedSerializer
from werkzeug.http import parse_cookie

from heliograph.actors.keyring import Keyring
from heliograph.config import AuthSettings, is_loopback
from heliograph.http.rules.access import is_within
from heliograph.http.rules.asked import Headers
from heliograph.http.rules.quotas import Allowance
from heliograph.http.rules.refused import RefusedCredentials
from heliograph.model.channels import AUDIT, selector_covers
from heliograph.model.errors import Forbidden, Unauthenticated, Unavailable
from heliograph.model.settings import SCOPES, Quota

TICKET = "ticket"
SESSION = "session"
TASK_KEY = "task key"
TASK_KEY_PREFIX = "task."
COOKIE = "heliograph_session"


@attrs.frozen
class Identity:
    """A known caller.

    Args:
        name: The key's name.
        scopes: The caller's rights: ``read``, ``publish``, ``admin``.
        channels: Selectors that it may read and publish; empty: all.
        by: The kind of proof: a ``key``, a ``ticket``, a ``session``, a ``task key`` or its
            ``network``.
        key: The name of the key that all this comes from; empty: of none.
        expires_at: The time at which that key expires; ``None``: never.
        allowance: The rest of that key's quota; ``None``: it has none.
    """

    name: str
    scopes: tuple[str, ...]
    channels: tuple[str, ...] = ()
    by: str = "key"
    key: str = attrs.field(default="", eq=False)
    expires_at: float | None = attrs.field(default=None, eq=False)
    allowance: Allowance | None = attrs.field(default=None, eq=False)

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
        if not self.covers(selector):
            if selector == AUDIT:
                self.require_scope("admin")
            raise Forbidden(f"{self.name} may not use the channel {selector}")

    def covers(self, *selectors: str) -> bool:
        """Tell whether channels, or patterns of them, are all covered; the audit is for administrators."""
        if AUDIT in selectors and "admin" not in self.scopes:
            return False
        return not self.channels or all(
            any(self._covers(one, selector) for one in self.channels) for selector in selectors
        )

    def _covers(self, own: str, selector: str) -> bool:
        beneath = self.by == TASK_KEY and selector.startswith(f"{own}.")  # tasks that the task begins
        return beneath or selector_covers(own, selector)


CREDENTIALS = ("Authorization", "Cookie", "X-API-Key")
"""The headers that tell who asks."""

LOCAL = Identity("local", SCOPES)
"""Everybody, when no keys are configured."""

NETWORK = Identity("network", SCOPES, by="network")
"""Everybody in the networks that need no key."""

NOBODY = Identity("anonymous", ())
"""A caller that need not say who it is, or has not done so yet."""


class NobodyKnown(Unauthenticated):
    """A request carries nothing that tells who asks, where it is needed."""


class Authenticator:
    """Tells callers apart by key, ticket, session or network.

    Args:
        settings: The keys, and what needs none.
        signing: Returns the secrets that tickets and sessions are signed with; the last of them signs.
        keyring: Has further keys; ``learn`` takes them over.
        guarded: Others than this machine's programs may ask: without any key they are nobody all the same.

    Attributes:
        open: Whether everybody is the local user: there never was a key, and there are no networks either.
        keyed: Whether keys are asked for, of those at least who come from no such network.
        allowances: What is left to each key that has a quota.
        refused: Credentials that were wrong.
    """

    def __init__(
        self,
        settings: AuthSettings,
        signing: Callable[[], list[str]] | None = None,
        keyring: Keyring | None = None,
        *,
        guarded: bool = False,
    ) -> None:
        self._settings = settings
        self._networks = settings.open_networks
        own = [secrets.token_hex()]
        self._signing = signing or (lambda: own)
        self._keyring = keyring
        self._guarded = guarded
        self.allowances: dict[str, Allowance] = {}
        self.refused = RefusedCredentials()
        self.learn()

    def _allowance(self, name: str, own: Quota | None) -> Allowance | None:
        """Return what is left to a key, as it was before if it was known."""
        quota = own or self._settings.quota
        if quota == Quota():
            return None
        if name not in self.allowances:
            self.allowances[name] = Allowance(name, quota)
        return self.allowances[name]

    def learn(self) -> None:
        """Take over the keys of the keyring as they are now; those of the settings go before them."""
        found = [
            (
                key.sha256,
                Identity(
                    key.name,
                    key.scopes,
                    key.channels,
                    key=key.name,
                    allowance=self._allowance(key.name, key.quota),
                ),
            )
            for key in self._settings.keys
        ]
        names = {identity.name for _, identity in found}
        stored = {} if self._keyring is None else self._keyring.keys
        self._revoked: dict[str, str] = {}
        for key in stored.values():
            if key.name in names:
                continue
            if key.revoked_at is not None:
                self._revoked[key.sha256] = key.name
                continue
            found.append(
                (
                    key.sha256,
                    Identity(
                        key.name,
                        key.scopes,
                        key.channels,
                        key=key.name,
                        expires_at=key.expires_at,
                        allowance=self._allowance(key.name, key.quota),
                    ),
                )
            )
        self._identities = dict(reversed(found))
        self._names = {identity.name: identity for _, identity in found}
        self.keyed = bool(found or stored) or (self._guarded and not self._networks)
        self.open = not (self.keyed or self._networks)

    def from_headers(
        self,
        headers: Headers,
        ticket: str | None = None,
        peer: str | None = None,
        *,
        returning: bool = False,
    ) -> Identity | None:
        """Identify a request; ``None`` when it carries no credentials but needs them.

        Args:
            headers: The request's.
            ticket: The ticket in its query.
            peer: The address that it came from.
            returning: It comes back to an event stream, whose ticket is then good for longer: a browser's
                EventSource repeats its URL, and is dead for good once that is refused.

        Raises:
            Unauthenticated: It carries wrong ones.
        """
        if self.open:
            return LOCAL
        key = headers.get("X-API-Key")
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if key is None and scheme.lower() == "bearer":
            key = token.strip()
        if key is not None or ticket is not None:
            return self.authenticate(key, ticket, returning=returning)
        cookie = headers.get("Cookie")
        session = None if cookie is None else parse_cookie(cookie).get(COOKIE)
        if session is not None and _from_own_page(headers):
            return self._read(session, SESSION, self._settings.session_seconds)
        near = peer is not None and (is_loopback(peer) or is_within(peer, self._networks))
        return NETWORK if self._networks and near else None

    def require(
        self,
        headers: Headers,
        ticket: str | None = None,
        peer: str | None = None,
        *,
        returning: bool = False,
    ) -> Identity:
        """Identify a request that must not be anonymous.

        Raises:
            NobodyKnown: It carries no credentials but needs them.
            Unauthenticated: It carries wrong ones.
        """
        who = self.from_headers(headers, ticket, peer, returning=returning)
        if who is None:
            raise NobodyKnown("send X-API-Key or Authorization: Bearer")
        return who

    def authenticate(self, key: str | None, ticket: str | None, *, returning: bool = False) -> Identity:
        """Identify a key or a ticket; see ``from_headers``.

        Raises:
            Unauthenticated: It is unknown, or the ticket is too old.
        """
        if self.open:
            return LOCAL
        if key is not None:
            digest = hashlib.sha256(key.encode()).hexdigest()
            identity = self._identities.get(digest)
            if identity is None and key.startswith(TASK_KEY_PREFIX):
                return self._read_task_key(key.removeprefix(TASK_KEY_PREFIX))
            if identity is None:
                self._require_keyring()
                name = self._revoked.get(digest)
                raise Unauthenticated(f"the key {name} was revoked" if name else "unknown API key")
            return identity if identity.expires_at is None else _unexpired(identity)
        settings = self._settings
        longer = max(settings.ticket_seconds, settings.ticket_return_seconds)
        return self._read(ticket or "", TICKET, longer if returning else settings.ticket_seconds)

    def ticket_for(self, identity: Identity) -> tuple[str, float]:
        """Make a ticket; return it with the time (seconds since the epoch) at which it expires."""
        return self._sign(identity, TICKET), time.time() + self._settings.ticket_seconds

    def session_for(self, identity: Identity) -> tuple[str, float]:
        """Make the text of a session's cookie; return it with the time at which it expires."""
        return self._sign(identity, SESSION), time.time() + self._settings.session_seconds

    def task_key_for(self, identity: Identity, task_id: str) -> tuple[str, float]:
        """Make a key that reaches one task; return it with the time at which it expires."""
        key = TASK_KEY_PREFIX + str(self._signer(TASK_KEY).dumps([identity.name, task_id]))
        return key, time.time() + self._settings.task_key_seconds

    def _read_task_key(self, text: str) -> Identity:
        name, task_id = self._signed(text, TASK_KEY, self._settings.task_key_seconds)
        whole = self._named(name, TASK_KEY)
        scopes = tuple(scope for scope in whole.scopes if scope != "admin")
        # Its name is no key's, so a ticket that it buys stands for nobody.
        return attrs.evolve(
            whole,
            name=f"{name} for task {task_id}",
            scopes=scopes,
            channels=(f"task:{task_id}",),
            by=TASK_KEY,
        )

    def _sign(self, identity: Identity, purpose: str) -> str:
        return str(self._signer(purpose).dumps(identity.name))

    def _read(self, text: str, purpose: str, seconds: float) -> Identity:
        """Return the caller that a signed text stands for.

        Raises:
            Unauthenticated: It is none of ours, of another purpose, too old, or of a key that is gone.
        """
        name = self._signed(text, purpose, seconds)
        return attrs.evolve(self._named(name, purpose), by=purpose)

    def _named(self, name: object, purpose: str) -> Identity:
        """Return the key that a signed text names.

        Raises:
            Unauthenticated: There is none of that name any more.
            Unavailable: It may well be there, and can't be looked for yet.
        """
        identity = self._names.get(name) if isinstance(name, str) else None
        if identity is not None:
            return _unexpired(identity)
        self._require_keyring()
        why = "was revoked" if name in self._revoked.values() else "is not there, or has another name now"
        raise Unauthenticated(f"the {purpose} is of a key that {why}")

    def _require_keyring(self) -> None:
        if self._keyring is not None and not self._keyring.loaded:
            raise Unavailable("the keys can't be read yet")

    def _signed(self, text: str, purpose: str, seconds: float) -> Any:
        try:
            return self._signer(purpose).loads(text, max_age=int(seconds))
        except BadData as error:
            why = "has expired" if isinstance(error, SignatureExpired) else "is none of ours"
            raise Unauthenticated(f"the {purpose} {why}; ask for another") from None

    def _signer(self, purpose: str) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(self._signing(), salt=f"heliograph {purpose}")


def _unexpired(identity: Identity) -> Identity:
    """Return an identity whose key is still good.

    Raises:
        Unauthenticated: It has expired.
    """
    if identity.expires_at is not None and time.time() >= identity.expires_at:
        raise Unauthenticated(f"the key {identity.key} has expired")
    return identity


def _from_own_page(headers: Headers) -> bool:
    """Tell whether a page of our own origin asks, or nobody says which.

    A browser sends a Strict cookie also for pages of the same host on other ports: their origin is another.
    """
    if headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
        return False
    origin = headers.get("Origin")
    return origin is None or origin.partition("://")[2] == headers.get("Host", "")
