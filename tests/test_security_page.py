"""The page about security: its table of bounds is that of the settings."""

from __future__ import annotations

import re
from pathlib import Path

import attrs

from heliograph.config import Settings

PAGE = (Path(__file__).parents[1] / "docs/security.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `([a-z_.]+)` \| ([\d.]+) \|", PAGE, re.MULTILINE))
SECTIONS = ("server", "artifacts", "events", "streams")


def test_the_bounds_are_those_of_the_settings() -> None:
    """Each row has the default, and every setting that is a bound by its name has a row."""
    settings = Settings()
    for path, shown in ROWS.items():
        section, name = path.split(".")
        assert shown == str(getattr(getattr(settings, section), name)), path
    bounds = {
        f"{section}.{field.name}"
        for section in SECTIONS
        for field in attrs.fields(type(getattr(settings, section)))
        if field.name.startswith("max_") or field.name.endswith(("_queue", "_total_bytes", "pending_bytes"))
    }
    assert bounds <= ROWS.keys()
