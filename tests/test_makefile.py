"""``make`` goes on from whatever an earlier ``make`` has left."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

WITHOUT_VENV = """#!/bin/sh
mkdir -p .venv/bin && ln -s "$(command -v python3)" .venv/bin/python
echo 'The virtual environment was not created successfully because ensurepip is not available.'
exit 1
"""
"""Python as Debian has it without ``python3-venv``: it stops halfway."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a checkout in a path with a space, with nothing in it but what make reads."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make."""
    return subprocess.run(["make", *arguments], cwd=checkout, capture_output=True, text=True, check=False)


def test_an_environment_that_was_half_made_is_made_anew(checkout: Path) -> None:
    """Once Debian's package is there the same command works, whatever the failed one has left."""
    halfway = checkout / "python-without-venv"
    halfway.write_text(WITHOUT_VENV)
    halfway.chmod(0o755)
    assert make(checkout, ".venv/bin/pip", "PYTHON=./python-without-venv").returncode != 0
    assert (checkout / ".venv/bin/python").exists()
    done = make(checkout, ".venv/bin/pip", f"PYTHON={sys.executable}")
    assert done.returncode == 0, done.stderr
    assert (checkout / ".venv/bin/pip").exists()


def test_a_machine_without_a_python_that_fits_is_told_so(checkout: Path) -> None:
    """Where no Python can make environments, one line says what to install."""
    done = make(checkout, ".venv/bin/pip", "PYTHONS=false")
    assert done.returncode != 0
    assert "apt install python3-venv" in done.stderr
    assert not (checkout / ".venv").exists()


def test_serving_needs_nothing_that_only_tests_need(checkout: Path) -> None:
    """``make run`` installs the service alone, ``make install`` and ``make test`` the rest as well."""
    for target, extras in (("run", False), ("install", True), ("test", True)):
        planned = make(checkout, "-n", target, f"PYTHON={sys.executable}").stdout
        assert (".[dev]" in planned) is extras
