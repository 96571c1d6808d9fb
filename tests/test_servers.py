"""The servers that tests start run wherever the checkout is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.servers import copy_postgres, package_folder


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy PostgreSQL as root does where nobody else may enter the virtual environment."""
    return copy_postgres(package_folder("pgserver").parent, tmp_path_factory.mktemp("copy"))


@pytest.mark.parametrize("program", ["initdb", "postgres", "pg_ctl"])
def test_postgres_runs_from_a_copy(copied: Path, program: str) -> None:
    """Each of its programs finds its shared libraries beside the copy."""
    path = copied / "pgserver" / "pginstall" / "bin" / program
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    assert "(PostgreSQL)" in said.stdout
