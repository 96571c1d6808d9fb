"""Idempotency keys: a fingerprint of what was published, so that a retry is told from a reused key."""

from __future__ import annotations

import hashlib
from datetime import datetime

from sqlalchemy import Connection, delete, select

from heliograph.model.errors import Conflict, Overtaken
from heliograph.model.event import OWNER_END, Draft
from heliograph.model.workflows.vocabulary import session_of
from heliograph.storage.sql import schema

PART = 1000
"""The most keys that one transaction removes."""


def fingerprint(draft: Draft) -> str:
    """Return a digest of 24 characters of a draft's content.

    The channel of an event that names only its session depends on what was known then, so it is left out.
    """
    named = session_of(draft.topic, draft.payload) is None
    said = (
        draft.channel if named else None,
        draft.topic,
        draft.sender,
        draft.timestamp,
        draft.correlation_id,
    )
    content = "\n".join(map(str, said)).encode() + b"\n" + draft.body
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def conflict(index: int, draft: Draft) -> Conflict:
    """Return the error of a request whose draft at an index reuses a key."""
    key = (draft.key or "").rpartition(OWNER_END)[2]
    return Conflict(f"item {index}: the key {key!r} was used for a different event")


def overtaken(draft: Draft) -> Overtaken:
    """Return the error of a request with a draft that no longer follows the event that it must."""
    return Overtaken(f"{draft.channel} has moved on behind event {draft.follows}")


def purge(connection: Connection, now: datetime) -> int:
    """Remove up to ``PART`` expired keys; return how many were removed."""
    table = schema.idempotency_keys
    some = select(table.c.key).where(table.c.expires_at <= now).limit(PART)
    return connection.execute(delete(table).where(table.c.key.in_(some))).rowcount
