"""The command line that starts this program, for advice that works as it is printed."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def command_line(*arguments: str) -> str:
    """Return a line for the user's shell that calls this program with some arguments."""
    return shlex.join([_program(), *arguments])


def _program() -> str:
    """Return the program's name where the PATH leads to it, else its path, a short one where it can be."""
    script = Path(sys.executable).with_name("heliograph")
    found = shutil.which("heliograph")
    if not script.exists() or (found is not None and os.path.samefile(found, script)):
        return "heliograph"
    return str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script)
