"""The front doors: what each package offers to the others stands in its ``__all__``."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

import heliograph

ROOT = Path(heliograph.__file__).parent

FRONT_DOORS = (
    *("", "actors", "client", "http.api", "http.streams", "http.wire"),
    *("storage.distributed", "storage.embedded"),
)
"""Packages, without the leading ``heliograph.``; the first is ``heliograph`` itself."""

CLIENT_PACKAGES = ("demo", "exec", "load")
"""What is built on the client, and is imported by its modules."""

OPENERS = {"typing", "heliograph.client.lazily"}

COMMANDS = {
    f"heliograph.client.{name}" for name in ("environment", "invocation", "leftovers", "tail", "terminal")
}
"""What the commands of the command line are made of; nobody else's."""


@pytest.mark.parametrize("package", FRONT_DOORS)
def test_a_front_door_offers_what_exists_and_is_described(package: str) -> None:
    """Every name in ``__all__`` is there, sorted; each class and function among them has a docstring."""
    door = import_module(f"heliograph.{package}".rstrip("."))
    assert door.__all__ == sorted(set(door.__all__))
    for name in door.__all__:
        offered = getattr(door, name)
        assert offered.__doc__ if isinstance(offered, type) else offered is not None


@pytest.mark.parametrize("package", FRONT_DOORS)
def test_no_module_stands_before_what_a_front_door_offers(package: str) -> None:
    """No module has the name of something offered: once it is imported, the package has it by that name."""
    folder = ROOT / package.replace(".", "/")
    modules = {path.stem for path in folder.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert not modules & set(import_module(f"heliograph.{package}".rstrip(".")).__all__)


@pytest.mark.parametrize("package", FRONT_DOORS)
def test_a_front_door_offers_all_that_it_imports(package: str) -> None:
    """A front door imports nothing that it does not offer, and defines nothing itself.

    One that opens slowly imports for type checkers only, and what opens it is no offer.
    """
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text(encoding="utf-8"))
    imported = {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module not in OPENERS
        for name in node.names
    }
    assert imported == set(import_module(f"heliograph.{package}".rstrip(".")).__all__)


def test_the_client_is_imported_by_its_front_door() -> None:
    """Outside the client nobody reaches behind its front door, but for the packages built on it."""
    inside = {f"heliograph.client.{name}" for name in CLIENT_PACKAGES}
    strays = []
    for file in ROOT.rglob("*.py"):
        if file.is_relative_to(ROOT / "client"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            module = node.module
            if not module.startswith("heliograph.client."):
                continue
            if module in COMMANDS and file == ROOT / "cli.py":
                continue
            if file == ROOT / "__init__.py":
                continue  # the front door of agents' programs
            if not any(module == one or module.startswith(f"{one}.") for one in inside):
                strays.append(f"{file.relative_to(ROOT)}:{node.lineno} imports {module}")
    assert not strays
