"""The dashboard page: static files that a browser runs as they are, without a build step."""

from __future__ import annotations

from pathlib import Path


def static_folder() -> Path:
    """Return the folder with the page's files; ``index.html`` is served at ``/``, the others below ``/static/``."""
    return Path(__file__).parent / "static"
