"""Arrows between rooms point only as the architecture lists them, and each library has its seam."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import heliograph

ROOT = Path(heliograph.__file__).parent

ARROWS = {
    "model": {"model"},
    "storage": {"storage", "model"},
    "actors": {"actors", "model", "storage.protocols"},
    "http": {"http", "actors", "model", "storage.protocols", "config"},
    "web": {"web"},
    "client": {"client", "model"},
}
"""What each room may import of ours; a dotted name is that one module of a room."""

SEAMS = {
    "alembic": {"storage"},
    "anyio": {"client.agent.ask", "client.retry", "client.streams"},
    "asyncio": set[str](),
    "click": {"cli", "client", "keys"},
    "hypercorn": {"http.wire.server"},
    "obstore": {"storage"},
    "psycopg": {"storage"},
    "quart": {"http"},
    "quart_trio": {"http"},
    "redis": {"storage"},
    "rich": {"cli", "client", "keys"},
    "sqlalchemy": {"storage"},
    "sqlite3": {"storage", "client"},
    "trio": {"actors", "http", "storage", "client", "service", "cli"},
    "trio_websocket": {"client"},
    "unittest": set[str](),
    "wsproto": {"http"},
}
"""Where a library may be imported: elsewhere its names and exceptions do not exist."""


LONG = 400
"""Lines of a module without a reason to be longer."""
REASON = "A long module, since "


def module_name(file: Path) -> str:
    """Return a file's module, without the leading ``heliograph.``."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(file): file for file in sorted(ROOT.rglob("*.py"))}
ROOMS = {name for name in ARROWS if (ROOT / name).is_dir()}


def imports(module: str) -> Iterator[str]:
    """Yield every absolute name that a module imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import at line {node.lineno}"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(module: str) -> set[str]:
    """Return the modules of ours that a module imports."""
    found = set()
    for name in imports(module):
        if name.startswith("heliograph."):
            inner = name.removeprefix("heliograph.")
            while inner and inner not in MODULES:
                inner = inner.rpartition(".")[0]
            if inner:
                found.add(inner)
    return found


def within(module: str, places: set[str]) -> bool:
    """Tell whether a module is one of these, or in one of these rooms."""
    return any(module == place or module.startswith(f"{place}.") for place in places)


def room_of(module: str) -> str:
    """Return the first part of a module's name."""
    return module.partition(".")[0]


def test_every_room_is_listed() -> None:
    """Every sub-package is a room whose arrows are written down here."""
    packages = {file.parent.name for file in ROOT.glob("*/__init__.py")}
    assert packages == ROOMS


@pytest.mark.parametrize("module", [name for name in MODULES if room_of(name) in ROOMS])
def test_a_room_imports_only_where_its_arrows_point(module: str) -> None:
    """A module in a room imports nothing of ours but what its room may know."""
    allowed = ARROWS[room_of(module)]
    strays = {name for name in ours(module) if not within(name, allowed)}
    assert not strays, f"{module} may import {sorted(allowed)}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports make no circle, not even those that are for types only."""
    graph = {module: ours(module) - {module} for module in MODULES}
    while leaves := {name for name, found in graph.items() if not found & graph.keys()}:
        graph = {name: found for name, found in graph.items() if name not in leaves}
    assert not graph, "in a circle, or importing one"


def test_a_long_module_says_why() -> None:
    """A module of more than 400 lines gives the reason in its docstring, as ``A long module, since …``."""
    texts = {module: file.read_text(encoding="utf-8") for module, file in MODULES.items()}
    long = {module: text for module, text in texts.items() if text.count("\n") > LONG}
    silent = [name for name, text in long.items() if REASON not in (ast.get_docstring(ast.parse(text)) or "")]
    assert not silent


def test_nobody_imports_the_top() -> None:
    """The composition root and the command line are imported by each other only."""
    importers = {
        (module, top) for module in MODULES for top in ours(module) if top in {"service", "cli", "__main__"}
    }
    assert {module for module, _ in importers} <= {"cli", "__main__"}


def test_settings_know_no_actors_and_no_http() -> None:
    """The settings, which the http room reads, do not know that room in turn."""
    assert not {room_of(name) for name in ours("config")} & {
        "actors",
        "http",
        "client",
        "web",
        "service",
        "cli",
    }


@pytest.mark.parametrize("library", SEAMS)
def test_a_library_is_used_at_its_seam(library: str) -> None:
    """A library that shapes its callers is imported only in the places that translate it."""
    users = {
        module
        for module in MODULES
        for name in imports(module)
        if name == library or name.startswith(f"{library}.")
    }
    assert not {module for module in users if not within(module, SEAMS[library])}


def test_the_embedded_form_pays_for_no_other_drivers() -> None:
    """The drivers of the distributed form, and Alembic, are imported by what needs them: they take 40 MiB."""
    asked = "import sys, heliograph.cli, heliograph.service; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", asked], capture_output=True, check=True, text=True)
    assert not {"alembic", "psycopg", "redis"} & set(answer.stdout.split())
