"""The corpora: for each target the inputs that it is fuzzed from, one a line, as Python writes bytes."""

from __future__ import annotations

import ast
from pathlib import Path

FOLDER = Path(__file__).parent / "corpora"


def read_corpus(name: str) -> list[bytes]:
    """Read a target's corpus."""
    lines = (FOLDER / f"{name}.txt").read_text(encoding="ascii").splitlines()
    return [ast.literal_eval(line) for line in lines]
