"""The command line that starts this program, so that printed advice can be copied and run."""

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
    """Return the program's name if it is on the PATH, else its path, relative if that is shorter."""
    script = Path(sys.executable).with_name("heliograph")
    found = shutil.which("heliograph")
    if not script.exists() or (found is not None and os.path.samefile(found, script)):
        return "heliograph"
    return str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script)
