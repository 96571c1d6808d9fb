"""Settings with a range, and the sections that several rooms use."""

from __future__ import annotations

from typing import Any

import attrs
from attrs import validators

SCOPES = ("read", "publish", "admin")
"""The rights of a key."""


def number(default: float, low: float, high: float) -> Any:
    """Declare a number setting with its inclusive range; an ``int`` default takes whole numbers only."""
    return attrs.field(default=default, validator=[validators.ge(low), validators.le(high)])


@attrs.frozen
class RetentionSettings:
    """Seconds that events, entities, and runs with their artifacts are kept; 0 keeps them for ever."""

    max_age_seconds: int = number(0, 0, 100 * 366 * 86400)
    max_events: int = number(0, 0, 10**15)
    entities_max_age_seconds: int = number(0, 0, 100 * 366 * 86400)
    runs_max_age_seconds: int = number(0, 0, 100 * 366 * 86400)


@attrs.frozen
class Quota:
    """The limits of one key; 0: none.

    Args:
        requests: The requests that it may send a minute.
        events: The events that it may publish a minute.
        bytes: The bytes of the bodies that it may send a minute.
        tasks: The tasks that it may have under way at once.
    """

    requests: int = number(0, 0, 10**9)
    events: int = number(0, 0, 10**9)
    bytes: int = number(0, 0, 10**15)
    tasks: int = number(0, 0, 10**6)
