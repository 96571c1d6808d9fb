"""A session of a user on a machine, and the factory of such sessions."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from typing import Any, ClassVar

import attrs


@attrs.define
class Session:
    """A session; it counts what its tasks cost."""

    session_id: str = "session-001"
    user_id: str = "user-001"
    machine_id: str = "machine-001"
    connected_at: datetime = attrs.field(factory=lambda: datetime.now(UTC))
    disconnected_at: datetime | None = None
    total_cost_usd: float = 0.0
    total_tasks: int = 0
    active: bool = True
    rate_limited: bool = False

    def add_completed_task(self, cost_usd: float) -> None:
        """Count a task that ended."""
        self.total_tasks += 1
        self.total_cost_usd += cost_usd

    def disconnect(self) -> None:
        """End."""
        self.active = False
        self.disconnected_at = datetime.now(UTC)

    def set_rate_limited(self, limited: bool = True) -> None:
        """Note whether it asks too much."""
        self.rate_limited = limited
        self.active = not limited and self.disconnected_at is None

    def validate(self) -> list[str]:
        """Return what is wrong with it, a sentence each."""
        problems = [
            f"{name} must not be empty"
            for name in ("session_id", "user_id", "machine_id")
            if not getattr(self, name).strip()
        ]
        if self.total_cost_usd < 0:
            problems.append("total_cost_usd must not be negative")
        if self.total_tasks < 0:
            problems.append("total_tasks must not be negative")
        if self.disconnected_at is not None and self.disconnected_at < self.connected_at:
            problems.append("disconnected_at must not be before connected_at")
        return problems


class SessionFactory:
    """Makes sessions with ids of their own, from session-001 on."""

    _numbers: ClassVar[count[int]] = count(1)

    @classmethod
    def create(cls, **fields: Any) -> Session:
        """Make a session; what is not given is as usual."""
        fields.setdefault("session_id", f"session-{next(cls._numbers):03}")
        return Session(**fields)

    @classmethod
    def create_active(cls, **fields: Any) -> Session:
        """Make a session that goes on."""
        return cls.create(**fields)

    @classmethod
    def create_disconnected(cls, **fields: Any) -> Session:
        """Make a session that has ended."""
        session = cls.create(**fields)
        session.disconnect()
        return session

    @classmethod
    def create_rate_limited(cls, **fields: Any) -> Session:
        """Make a session that asks too much."""
        session = cls.create(**fields)
        session.set_rate_limited()
        return session

    @classmethod
    def reset(cls) -> None:
        """Begin the ids anew."""
        cls._numbers = count(1)
