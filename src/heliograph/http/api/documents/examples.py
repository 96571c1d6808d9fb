"""Examples of the streams' messages, each written by the functions that write the real ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import orjson

from heliograph.actors.subscription import Overflow
from heliograph.http.api import samples
from heliograph.http.rules.problems import describe
from heliograph.http.streams.reason import Reason
from heliograph.http.streams.watching import MAX_TAIL
from heliograph.model.errors import Invalid
from heliograph.model.event import event_json, message_json
from heliograph.model.ids import OLDEST, format_id

HEAD = format_id(samples.HEAD)
EVENT = orjson.loads(event_json(samples.OUTPUT))

_REFUSED = attrs.asdict(describe(Invalid.field("tail", f"must be a whole number from 0 to {MAX_TAIL}")))
NOTICES: Mapping[str, Mapping[str, Any]] = {
    "gap": {
        "channel": "task:42",
        "from": format_id(samples.CREATED.id),
        "to": format_id(samples.OUTPUT.id),
        "count": 2,
        "reason": Overflow.DROP_OLDEST.value,
    },
    "reset": {
        "channel": "task:42",
        "oldest": format_id(samples.CREATED.id),
        "head": HEAD,
        "reason": "events after the cursor are no longer kept",
    },
    "reconnect": {"after_ms": 1200, "cursor": HEAD, "reason": Reason.ROTATE.text},
    "subscribed": {"channel": "task:42", "cursor": format_id(OLDEST), "recovered": True, "ref": 1},
    "unsubscribed": {"channel": "task:42", "ref": 2},
    "pong": {"ref": 3},
    "authenticated": {"name": "dashboard", "ref": None},
    "error": {
        **{name: _REFUSED[name] for name in ("code", "title", "detail")},
        "ref": 4,
    },
}
MESSAGES: Mapping[str, Mapping[str, Any]] = {
    "task_output": orjson.loads(message_json(samples.OUTPUT)),
    "task_status": orjson.loads(message_json(samples.ENDED)),
    "cli_status_update": orjson.loads(message_json(samples.READY)),
    "event": orjson.loads(message_json(samples.OTHER)),
}
ASKED: Mapping[str, Mapping[str, Any]] = {
    "subscribe": {"channel": "task:42", "after": format_id(OLDEST), "ref": 1},
    "unsubscribe": {"channel": "task:42", "ref": 2},
    "ping": {"ref": 3},
    "auth": {"key": "a key"},
}
ACTIONS: Mapping[str, Mapping[str, Any]] = {
    "chat.message": {"message": "What is new?", "conversation_id": "conv-0123456789ab", "ref": 5},
    "task.stop": {"task_id": "42", "ref": 6},
    "task.input": {"task_id": "42", "content": "main"},
}
DONE: Mapping[str, Any] = {
    "of": "task.stop",
    "task_id": "42",
    "stopped": True,
    "status": "cancelled",
    "ref": 6,
}
OPEN: Mapping[str, Any] = {"channel": "task:42", "cursor": format_id(OLDEST), "recovered": True}
KEEPALIVE: Mapping[str, Any] = {"time": "2026-01-31T12:00:00Z", "cursor": HEAD}
