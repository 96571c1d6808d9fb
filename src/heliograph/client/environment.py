"""The client's view of the environment: the service's URL, and the task that this program belongs to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

DEFAULT_URL = "http://127.0.0.1:5000"

URL = "HELIOGRAPH_URL"
API_KEY = "HELIOGRAPH_API_KEY"
TASK_ID = "HELIOGRAPH_TASK_ID"


def service_url() -> str:
    """Return the service's URL."""
    return (os.environ.get(URL) or DEFAULT_URL).rstrip("/")


def api_key() -> str | None:
    """Return the key to publish and read with; ``None``: none."""
    return os.environ.get(API_KEY) or None


def task_id() -> str | None:
    """Return the id of the task that this program is under ``heliograph exec``; ``None`` outside of it."""
    return os.environ.get(TASK_ID) or None


def spool_folder() -> Path:
    """Return the folder of all spools; a temporary one for a user without a home.

    A relative ``XDG_STATE_HOME`` is ignored, as its specification demands.
    """
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    try:
        state = state if state.is_absolute() else Path.home() / ".local/state"
    except RuntimeError:
        return Path(tempfile.gettempdir(), f"heliograph-{os.getuid()}", "spool")
    return state / "heliograph" / "spool"
