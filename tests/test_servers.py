"""The servers that tests start run wherever the checkout is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.servers import copy_postgres, package_folder


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy PostgreSQL as root does where nobody else may enter the virtual environment."""
    package = package_folder("pgserver") or pytest.skip("no wheel of PostgreSQL for this Python")
    return copy_postgres(package, tmp_path_factory.mktemp("copy"))


@pytest.mark.parametrize("program", ["initdb", "postgres", "pg_ctl"])
def test_postgres_runs_from_a_copy(binaries: Path, program: str) -> None:
    """Each of its programs finds its shared libraries beside the copy."""
    said = subprocess.run([binaries / program, "--version"], capture_output=True, text=True, check=True)
    assert "(PostgreSQL)" in said.stdout
