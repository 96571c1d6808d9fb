"""Lazy packages: a name is imported from its module when it is first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def homes(package: str, names: Mapping[str, str | tuple[str, str]]) -> Callable[[str], Any]:
    """Make a package's ``__getattr__``.

    Args:
        package: The package's name.
        names: The module of each name, with the name in that module if it differs.
    """

    def getattr_(name: str) -> Any:
        home = names.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, inner = (home, name) if isinstance(home, str) else home
        return getattr(import_module(module), inner)

    return getattr_
