"""Hooks of schemathesis: how it writes bodies of JSON lines."""

from __future__ import annotations

import json
from typing import Any

import schemathesis

KINDS = ("ndjson", "jsonl", "jsonlines", "x-ndjson", "x-jsonlines", "x-jsonl", "json-lines", "x-json-lines")


def as_lines(context: Any, value: Any) -> bytes:
    """Write each entry of a list on a line of its own, and anything else on one."""
    return "\n".join(map(json.dumps, value if isinstance(value, list) else [value])).encode()


for kind in KINDS:
    schemathesis.serializer(f"application/{kind}")(as_lines)
