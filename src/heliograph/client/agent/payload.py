"""Payloads that the service accepts, made from arbitrary objects. No I/O.

A program must not fail because of what it publishes. So an object that is not JSON becomes its text, NUL its
visible symbol, a lone surrogate U+FFFD, a number beyond 64 bits its digits as text, and a payload that is too
large a preview that says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

MAX_BYTES = 960 * 1024
"""The most bytes of one payload: the service's own limit is 1 MiB by default."""

PREVIEW_CHARACTERS = 16 * 1024
MAX_LEVELS = 50
OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z | orjson.OPT_SERIALIZE_NUMPY
NUL = b"\\u0000"


def encode(payload: Mapping[str, Any]) -> orjson.Fragment:
    """Encode a payload as it is now, so that the program may change its objects afterwards.

    Args:
        payload: The payload; its fields ``task_id`` and ``status`` are kept even if the rest is too large.
    """
    body = write_json(payload)
    if len(body) > MAX_BYTES:
        kept = {name: payload[name] for name in ("task_id", "status") if name in payload}
        short = {
            "shortened": True,
            "bytes": len(body),
            "preview": body[:PREVIEW_CHARACTERS].decode("utf-8", "ignore"),
        }
        body = write_json({**kept, "result": short} if "status" in kept else {**kept, **short})
    return orjson.Fragment(body)


def write_json(value: Any) -> bytes:
    """Encode any value as JSON that the service accepts."""
    try:
        body = orjson.dumps(value, default=text_of, option=OPTIONS)
    except TypeError:
        body = NUL
    if NUL in body:
        body = orjson.dumps(_plain(value, MAX_LEVELS), option=OPTIONS)
    return body


def text_of(value: object) -> str:
    """Return the text that stands for an object, whatever its own ``__str__`` does."""
    try:
        return clean(str(value))
    except Exception:  # the program's own code, which may raise anything
        return f"<{type(value).__name__}>"


def clean(text: str) -> str:
    """Return a text without NUL and lone surrogates, which the service does not accept."""
    if text.isascii():
        return text.replace("\0", "\u2400")
    return text.replace("\0", "\u2400").encode("utf-8", "replace").decode("utf-8", "replace")


def _plain(value: Any, levels: int) -> Any:
    match value:
        case None | bool() | float():
            return value
        case int():
            return value if -(2**63) <= value < 2**64 else str(value)
        case str():
            return clean(value)
        case Mapping() if levels:
            return {text_of(name): _plain(member, levels - 1) for name, member in value.items()}
        case list() | tuple() | set() | frozenset() if levels:
            return [_plain(member, levels - 1) for member in value]
        case _:
            return text_of(value)
