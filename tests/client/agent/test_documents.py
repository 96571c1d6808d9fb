"""The examples of ``docs/client.md`` run as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import heliograph

if TYPE_CHECKING:
    from tests.client.agent.conftest import Service

PAGE = Path(__file__).parents[3] / "docs" / "client.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(service: Service, tmp_path: Path, number: int) -> None:
    """Each example ends well, says nothing on stderr, and leaves only completed tasks at the service."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXAMPLES[number]],
        env={**os.environ, "HELIOGRAPH_URL": service.url, "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with heliograph.Client(service.url) as client:
        tasks = client.tasks().tasks
    assert tasks
    assert {task.status for task in tasks} == {"completed"}


def test_there_are_examples() -> None:
    """The page has its examples, one of them a whole agent's loop."""
    assert len(EXAMPLES) >= 5
    assert any("tool.call" in example for example in EXAMPLES)
