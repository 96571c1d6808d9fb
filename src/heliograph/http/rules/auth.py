"""Authentication: the caller of a request, and the caller's rights.

Keys are known by their SHA-256 only: those of the settings, and those in the vault (``actors.keyring``),
which may change while the service runs. If there never was a key, every caller is the local user, and the
service binds to loopback only (``service`` sees to that), unless networks are configured that need no key.
Revoking the last key does not open the service.

Two signed texts stand for a key: a short-lived *ticket* for the query string, since browsers can't set
headers on EventSource and WebSocket, and a *session*, the cookie of our own page. Any node with the same keys
and signing secrets (``actors.signing``) accepts them, each for its own purpose alone. A third text, a *task
key*, is sent like a key and reaches one task: the program of the task need not be trusted with more.
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
        name: The caller's name, mostly that of the key.
        scopes: The caller's rights: ``read``, ``publish``, ``admin``.
        channels: Selectors that the caller may read and publish; empty: all.
        by: The kind of proof: a ``key``, a ``ticket``, a ``session``, a ``task key`` or its
            ``network``.
        key: The name of the key that the identity comes from; empty: none.
        beneath: Whether it also reaches tasks whose ids begin with its task's id and a dot.
        expires_at: The time at which that key expires; ``None``: never.
        allowance: The rest of that key's quota; ``None``: it has no quota.
    """

    name: str
    scopes: tuple[str, ...]
    channels: tuple[str, ...] = ()
    by: str = "key"
    key: str = attrs.field(default="", eq=False)
    beneath: bool = False
    expires_at: float | None = attrs.field(default=None, eq=False)
    allowance: Allowance | None = attrs.field(default=None, eq=False)

    def require(self, scope: str, *selectors: str) -> None:
        """Check that the caller has a scope, and that its key covers all these channels or patterns.

        Raises:
            Forbidden: The scope or a channel is missing.
        """
        self.require_scope(scope)
        for selector in selectors:
            self.require_channel(selector)

    def require_scope(self, scope: str) -> None:
        """Check that the caller has a scope.

        Raises:
            Forbidden: The key lacks the scope.
        """
        if scope not in self.scopes:
            raise Forbidden(f"this needs the scope {scope}; {self.name} has {', '.join(self.scopes)}")

    def require_channel(self, selector: str) -> None:
        """Check that a channel, or a pattern of channels, is covered.

        Raises:
            Forbidden: It is not covered.
        """
        if not self.covers(selector):
            if selector == AUDIT:
                self.require_scope("admin")
            raise Forbidden(f"{self.name} may not use the channel {selector}")

    def covers(self, *selectors: str) -> bool:
        """Tell whether all these channels or patterns are covered; the audit needs an administrator."""
        if AUDIT in selectors and "admin" not in self.scopes:
            return False
        return not self.channels or all(
            any(self._covers(one, selector) for one in self.channels) for selector in selectors
        )

    def _covers(self, own: str, selector: str) -> bool:
        return selector_covers(own, selector) or (self.beneath and selector.startswith(f"{own}."))


CREDENTIALS = ("Authorization", "Cookie", "X-API-Key")
"""The headers that identify the caller."""

LOCAL = Identity("local", SCOPES)
"""Every caller, when no keys are configured."""

NETWORK = Identity("network", SCOPES, by="network")
"""Every caller in the networks that need no key."""

NOBODY = Identity("anonymous", ())
"""A caller that needs no credentials, or has not sent them yet."""


class NobodyKnown(Unauthenticated):
    """A request carries no credentials where they are needed."""


class Authenticator:
    """Identifies callers by key, ticket, session or network.

    Args:
        settings: The configured keys, and the networks that need none.
        signing: Returns the secrets that tickets and sessions are signed with; the last one signs.
        keyring: The keys in the vault; ``learn`` takes them over.
        guarded: Whether other machines can reach the service: keys are then required even if there are none.

    Attributes:
        open: Whether every caller is the local user: there never was a key, and no network is configured.
        keyed: Whether keys are required, at least of callers outside the networks that need none.
        allowances: The rest of the quota of each key that has one.
        refused: Counts of wrong credentials.
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
        """Return the rest of a key's quota; a known key keeps its own."""
        quota = own or self._settings.quota
        if quota == Quota():
            return None
        if name not in self.allowances:
            self.allowances[name] = Allowance(name, quota)
        return self.allowances[name]

    def learn(self) -> None:
        """Take over the keyring's current keys; keys of the settings take precedence."""
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
            headers: The request's headers.
            ticket: The ticket in its query.
            peer: The address that it came from.
            returning: Whether the client resumes an event stream; its ticket is then valid for longer, since
                a browser's EventSource repeats its URL, and ends for good once that is refused.

        Raises:
            Unauthenticated: The credentials are wrong.
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
            Unauthenticated: The credentials are wrong.
        """
        who = self.from_headers(headers, ticket, peer, returning=returning)
        if who is None:
            raise NobodyKnown("send X-API-Key or Authorization: Bearer")
        return who

    def authenticate(self, key: str | None, ticket: str | None, *, returning: bool = False) -> Identity:
        """Identify a key or a ticket; see ``from_headers``.

        Raises:
            Unauthenticated: The key or ticket is unknown, or has expired.
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
        # No key has this name, so a ticket that is made with a task key is worthless.
        return attrs.evolve(
            whole,
            name=f"{name} for task {task_id}",
            scopes=scopes,
            channels=(f"task:{task_id}",),
            by=TASK_KEY,
            beneath=whole.covers("task:*"),  # else it would reach further than its key
        )

    def _sign(self, identity: Identity, purpose: str) -> str:
        return str(self._signer(purpose).dumps(identity.name))

    def _read(self, text: str, purpose: str, seconds: float) -> Identity:
        """Return the caller that a signed text stands for.

        Raises:
            Unauthenticated: It is not ours, for another purpose, too old, or of a key that is gone.
        """
        name = self._signed(text, purpose, seconds)
        return attrs.evolve(self._named(name, purpose), by=purpose)

    def _named(self, name: object, purpose: str) -> Identity:
        """Return the key that a signed text names.

        Raises:
            Unauthenticated: There is no key of that name any more.
            Unavailable: The keyring is not loaded yet, so the key may exist.
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
    """Return an identity, after a check that its key has not expired.

    Raises:
        Unauthenticated: The key has expired.
    """
    if identity.expires_at is not None and time.time() >= identity.expires_at:
        raise Unauthenticated(f"the key {identity.key} has expired")
    return identity


def _from_own_page(headers: Headers) -> bool:
    """Tell whether a request comes from a page of our own origin, or names no origin.

    A browser sends a Strict cookie also from pages of the same host on other ports, which are other origins.
    """
    if headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
        return False
    origin = headers.get("Origin")
    return origin is None or origin.partition("://")[2] == headers.get("Host", "")
