"""The front doors: what each package offers to the others stands in its ``__all__``."""

from __future__ import annotations

import ast
from collections import defaultdict
from importlib import import_module
from pathlib import Path

import pytest

import heliograph

ROOT = Path(heliograph.__file__).parent
BENCH = Path(__file__).parent.parent / "bench"

FRONT_DOORS = (
    *("", "actors", "client", "client.demo", "client.exec", "client.load"),
    *("http.api", "http.streams", "http.wire", "storage.distributed", "storage.embedded"),
)
"""Packages, without the leading ``heliograph.``; the first is ``heliograph`` itself."""

_BY_MODULE = "each module is a subject of its own, and is imported by its name"
_LIGHT = "an agent's program imports a few of the modules, and must not load the others"
_LIST = "it lists its modules or their declarations, and has nothing inside"
_FOLDER = "it holds packages or files, and no code of its own"

NO_DOORS = {
    "client.agent": "the front door of agents' programs is heliograph itself",
    "http": _FOLDER,
    "http.api.dashboard": _LIST,
    "http.api.documents": _BY_MODULE,
    "http.api.routes": _LIST,
    "http.rules": _BY_MODULE,
    "model": _LIGHT,
    "model.analytics": _BY_MODULE,
    "model.conversations": _BY_MODULE,
    "model.webhooks": _BY_MODULE,
    "model.workflows": _BY_MODULE,
    "storage": "the rooms above know its protocols alone, and each form has a front door of its own",
    "storage.sql": "both forms are built of its modules, each imported by its name",
    "storage.sql.entities": _LIST,
    "storage.sql.migrations": _FOLDER,
    "storage.sql.migrations.versions": _FOLDER,
    "web": _FOLDER,
}
"""The other packages, with the reason why they have no front door."""

BUILT_ON_THE_CLIENT = ("heliograph.client.demo", "heliograph.client.exec", "heliograph.client.load")
"""Packages of the client that others import by their own front doors."""

OPENERS = {"typing", "heliograph.client.lazily"}

COMMANDS = {
    f"heliograph.client.{name}" for name in ("environment", "invocation", "leftovers", "tail", "terminal")
}
"""Modules of which the command line makes its commands; nobody else imports them."""

SHARED = {
    "Client": "heliograph.Client in plain code, heliograph.AsyncClient in an event loop",
    "Run": "the service's state of a run, and heliograph.Run, which tells of one",
    "Step": "the service's state of a step, and heliograph.Step, which tells of one",
    "Task": "the service's state of a task, and heliograph.Task, which tells of one",
}
"""Names of two classes, each with the two meanings; agents' programs are promised the client's names."""


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


def test_every_package_has_a_front_door_or_a_reason_for_none() -> None:
    """A package is listed once: among the front doors, or among those without one."""
    folders = (file.parent.relative_to(ROOT) for file in ROOT.rglob("__init__.py"))
    packages = sorted(".".join(folder.parts) for folder in folders)
    assert packages == sorted((*FRONT_DOORS, *NO_DOORS))


def test_the_client_is_imported_by_its_front_doors() -> None:
    """Outside the client and the packages built on it, nobody reaches behind a front door of theirs."""
    strays = []
    for file in (*ROOT.rglob("*.py"), *BENCH.rglob("*.py")):
        here = ".".join(("heliograph", *file.with_suffix("").parts[len(ROOT.parts) :]))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            module = node.module
            if not module.startswith("heliograph.client."):
                continue
            if module in BUILT_ON_THE_CLIENT or (module in COMMANDS and file == ROOT / "cli.py"):
                continue
            if file == ROOT / "__init__.py":
                continue  # the front door of agents' programs
            behind = [one for one in BUILT_ON_THE_CLIENT if module.startswith(f"{one}.")]
            inside = behind[0] if behind else "heliograph.client"
            if file.is_relative_to(BENCH) or not f"{here}.".startswith(f"{inside}."):
                strays.append(f"{file}:{node.lineno} imports {module}")
    assert not strays


def test_a_class_has_a_name_of_its_own() -> None:
    """No two classes of the source share a name, but for those that `SHARED` gives a reason for."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for file in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{file.relative_to(ROOT)}:{node.lineno}")
    doubles = {name: found for name, found in places.items() if len(found) > 1}
    assert doubles.keys() == SHARED.keys(), doubles
