"""How a setting with a range is declared, and the one section that several rooms know."""

from __future__ import annotations

from typing import Any

import attrs
from attrs import validators

SCOPES = ("read", "publish", "admin")
"""What a key may be allowed to do."""


def number(default: float, low: float, high: float) -> Any:
    """Declare a number setting with its inclusive range; an ``int`` default takes whole numbers only."""
    return attrs.field(default=default, validator=[validators.ge(low), validators.le(high)])


@attrs.frozen
class RetentionSettings:
    """How long events, entities, and runs with what they left behind are kept; 0 keeps them for ever."""

    max_age_seconds: int = number(0, 0, 100 * 366 * 86400)
    max_events: int = number(0, 0, 10**15)
    entities_max_age_seconds: int = number(0, 0, 100 * 366 * 86400)
    runs_max_age_seconds: int = number(0, 0, 100 * 366 * 86400)


@attrs.frozen
class Quota:
    """What one key may use; 0: as much as it likes.

    Args:
        requests: A minute.
        events: That it publishes a minute.
        bytes: Of the bodies that it sends a minute.
        tasks: That it has under way at once.
    """

    requests: int = number(0, 0, 10**9)
    events: int = number(0, 0, 10**9)
    bytes: int = number(0, 0, 10**15)
    tasks: int = number(0, 0, 10**6)
