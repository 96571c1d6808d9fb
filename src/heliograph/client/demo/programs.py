"""The little programs of the demo fleet: ``python programs.py NAME …``.

Each does something real and harmless, reads only the standard library's own sources, writes nothing but
its output, and sleeps between two lines.
"""
# ruff: noqa: T201 (printing is what they are for)

from __future__ import annotations

import ast
import doctest
import importlib.util
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

LONG_FUNCTION = 60


def compile_package(package: str) -> None:
    """Compile every module of a package, in memory."""
    total = 0
    for path in sources(package):
        code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        total += len(code.co_code)
        print(f"compiled {package}/{path.name}")
        time.sleep(0.6)
    print(f"done: {total:,} bytes of code at module level")


def check_package(package: str) -> None:
    """Report long functions and functions without a docstring."""
    findings = 0
    for path in sources(package):
        print(f"checking {package}/{path.name}")
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno > LONG_FUNCTION:
                findings += 1
                place = f"{package}/{path.name}:{node.lineno}"
                print(f"{place}: warning: {node.name} has more than {LONG_FUNCTION} lines", file=sys.stderr)
        time.sleep(0.8)
    print(f"{findings} warnings")


def index_package(package: str) -> None:
    """Count the words of a package, with a progress bar."""
    paths = list(sources(package))
    words: dict[str, int] = {}
    for count, path in enumerate(paths, 1):
        for word in path.read_text(encoding="utf-8").split():
            words[word] = words.get(word, 0) + 1
        filled = 30 * count // len(paths)
        print(f"\r[{'#' * filled}{'.' * (30 - filled)}] {count}/{len(paths)}", end="")
        time.sleep(0.5)
    print()
    for word in sorted(words, key=lambda word: -words[word])[:5]:
        print(f"{words[word]:6}  {word}")


def run_examples() -> None:
    """Run the examples in a docstring, one dot each."""
    print("running", end=" ")
    for example in doctest.DocTestParser().get_examples(EXAMPLES):
        got = repr(eval(example.source, {"textwrap": textwrap})) + "\n"
        print("." if got == example.want else "F", end="")
        time.sleep(0.7)
    print(" all right")


def deploy() -> None:
    """Fail, as a real deployment may."""
    for step in ("looking for the place", "preparing the parcel", "connecting"):
        print(f"{step} …")
        time.sleep(1.5)
    Path("/nonexistent/heliograph-demo").read_bytes()


def watch(seconds: str) -> None:
    """Report the state of this machine every three seconds."""
    for _ in range(int(seconds) // 3):
        load = os.getloadavg()[0]
        free = shutil.disk_usage("/").free // 2**20
        print(f"{time.strftime('%H:%M:%S')}  load {load:.2f}  free on / {free:,} MiB")
        time.sleep(3)


def sources(package: str) -> Iterator[Path]:
    """Find the modules of a package of the standard library."""
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        yield from sorted(Path(folder).glob("*.py"))


EXAMPLES = """
>>> textwrap.shorten("the quick brown fox", 12)
'the [...]'
>>> textwrap.fill("a b c", 3)
'a b\\nc'
>>> textwrap.dedent("  x")
'x'
>>> textwrap.indent("x", "> ")
'> x'
>>> textwrap.wrap("one two", 4)
['one', 'two']
"""

PROGRAMS: Mapping[str, Callable[..., None]] = {
    "compile": compile_package,
    "check": check_package,
    "index": index_package,
    "test": run_examples,
    "deploy": deploy,
    "watch": watch,
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
