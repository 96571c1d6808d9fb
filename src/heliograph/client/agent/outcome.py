"""The outcome of a program's block, by the exception that left it."""

from __future__ import annotations

import sys

from heliograph.client.agent.payload import text_of

_CANCELLATIONS = (("asyncio", "CancelledError"), ("trio", "Cancelled"))


def outcome(error: BaseException | None) -> tuple[str, str | None]:
    """Return the status of a task whose block was left by ``error``, and the error's text."""
    match error:
        case None | SystemExit(code=None | 0):
            return "completed", None
        case KeyboardInterrupt() | GeneratorExit():
            return "cancelled", type(error).__name__
        case _ if is_cancellation(error):
            return "cancelled", "cancelled"
        case _:
            return "failed", error_text(error)


def error_text(error: BaseException) -> str:
    """Return an exception as one line, like the last line of its traceback."""
    said = text_of(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def is_cancellation(error: BaseException) -> bool:
    """Tell whether asyncio or Trio has cancelled the block; neither is imported for it."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_cancellation, error.exceptions))
    kinds = [getattr(sys.modules.get(world), name, None) for world, name in _CANCELLATIONS]
    return any(kind is not None and isinstance(error, kind) for kind in kinds)
