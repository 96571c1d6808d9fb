"""The kinds of entities that there are."""

from __future__ import annotations

from typing import Any

from heliograph.model.kind import Kind
from heliograph.model.session import SESSION
from heliograph.model.task import TASK

KINDS: tuple[Kind[Any], ...] = (TASK, SESSION)
