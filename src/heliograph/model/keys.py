"""An API key in the vault: its hash, its rights, and its state.

The key itself is shown once, when it is made. A key is never changed, and its name is never used again: a
name in a ticket, a session or the audit means the same key for ever.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import Literal

import attrs
import orjson

from heliograph.model.channels import CHANNEL_HELP, NAME_HELP, is_channel, is_name, is_pattern
from heliograph.model.errors import FieldError, Invalid
from heliograph.model.settings import SCOPES, Quota
from heliograph.model.strict import structure

PREFIX = "key/"
"""The prefix of keys' names in the vault."""

MARK = "heliograph_"
"""The beginning of every generated key, by which scanners for leaked keys find it."""

State = Literal["active", "expired", "revoked"]


@attrs.frozen
class StoredKey:
    """A key in the vault.

    Args:
        name: The name in logs and counters.
        sha256: Hex digest of the key.
        scopes: Some of ``read``, ``publish``, ``admin``.
        channels: Selectors that it may read and publish; empty: all.
        made_at: The time at which it was made, in seconds since the epoch.
        made_by: The user and the machine that made it.
        expires_at: The time at which it expires; ``None``: never.
        quota: The key's own quota; ``None``: that of ``auth.quota``.
        revoked_at: The time at which it was revoked; ``None``: it was not.
        revoked_by: The user and the machine that revoked it.
    """

    name: str
    sha256: str
    scopes: tuple[str, ...]
    channels: tuple[str, ...]
    made_at: float
    made_by: str
    expires_at: float | None = None
    quota: Quota | None = None
    revoked_at: float | None = None
    revoked_by: str | None = None

    def state(self, now: float) -> State:
        """Return the key's state at ``now``."""
        if self.revoked_at is not None:
            return "revoked"
        return "active" if self.expires_at is None or now < self.expires_at else "expired"

    def to_text(self) -> str:
        """Encode the key for the vault."""
        return orjson.dumps(attrs.asdict(self)).decode()

    @classmethod
    def from_text(cls, text: str) -> StoredKey:
        """Decode a key of the vault.

        Raises:
            ValueError: The text is not a key.
        """
        problems: list[str] = []
        found = structure(orjson.loads(text), cls, "", problems)
        if not isinstance(found, cls):
            raise ValueError("; ".join(problems))  # noqa: TRY004 - the text is wrong
        return found


def make_key(
    name: str,
    scopes: tuple[str, ...],
    channels: tuple[str, ...],
    made_at: float,
    made_by: str,
    expires_at: float | None = None,
    quota: Quota | None = None,
) -> tuple[str, StoredKey]:
    """Make a key; return its text, and the part that the vault keeps.

    Raises:
        Invalid: A field is wrong.
    """
    errors = []
    if not is_name(name):
        errors.append(FieldError("name", f"must be {NAME_HELP}"))
    if not scopes or not set(scopes) <= set(SCOPES):
        errors.append(FieldError("scopes", f"must be some of {', '.join(SCOPES)}"))
    errors += [
        FieldError("channels", f"{selector!r} is not {CHANNEL_HELP} nor a pattern")
        for selector in channels
        if not (is_channel(selector) or is_pattern(selector))
    ]
    if expires_at is not None and expires_at <= made_at:
        errors.append(FieldError("expires", "must be in the future"))
    if errors:
        raise Invalid(errors)
    secret = MARK + secrets.token_urlsafe(32)
    made = StoredKey(name, hash_of(secret), scopes, channels, made_at, made_by, expires_at, quota)
    return secret, made


def hash_of(secret: str) -> str:
    """Return the hash by which a key is known."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def stored_keys(kept: Mapping[str, str]) -> tuple[dict[str, StoredKey], set[str]]:
    """Decode the keys among a vault's secrets; return them by name, and the names that can't be decoded."""
    found: dict[str, StoredKey] = {}
    broken: set[str] = set()
    for place, text in kept.items():
        if place.startswith(PREFIX):
            try:
                key = StoredKey.from_text(text)
            except ValueError:
                broken.add(place.removeprefix(PREFIX))
            else:
                found[key.name] = key
    return found, broken
