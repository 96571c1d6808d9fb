"""The servers that the tests start run wherever the checkout is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests import servers


def test_postgres_runs_from_a_copy(tmp_path: Path) -> None:
    """Each of its programs finds its libraries when the virtual environment may not be entered."""
    site = servers.copy_postgres(servers._package_folder("pgserver").parent, tmp_path)
    for program in ("initdb", "postgres", "pg_ctl"):
        path = site / "pgserver" / "pginstall" / "bin" / program
        loaded = subprocess.run(["ldd", path], capture_output=True, text=True, check=True)
        libraries = [line for line in loaded.stdout.splitlines() if "pgserver.libs" in line]
        print(libraries)
