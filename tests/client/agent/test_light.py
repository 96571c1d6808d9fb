"""What a program imports with the client, and what an installation without the service can do."""

from __future__ import annotations

import subprocess
import sys

import pytest

ALLOWED = {"attr", "attrs", "cattr", "cattrs", "heliograph", "httpx", "orjson", "typing_extensions"}
"""What the client may import beside the standard library before it talks to anybody."""

SERVICE = [
    "alembic",
    "hypercorn",
    "prometheus_client",
    "psutil",
    "psycopg",
    "yaml",
    "quart",
    "quart_trio",
    "redis",
    "sqlalchemy",
    "structlog",
]


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_a_program_that_publishes_imports_little() -> None:
    """Up to the first line of a task nothing is imported but attrs, orjson and the standard library."""
    program = """
import sys, heliograph
with_everything = heliograph.task, heliograph.run, heliograph.current_task, heliograph.LoggingHandler
heliograph.configure(enabled=False)
with heliograph.task("t") as task:
    task.print("line")
print(*{name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names))
"""
    done = run(program)
    assert done.returncode == 0, done.stderr
    assert {name for name in done.stdout.split() if not name.startswith("_")} <= ALLOWED


WITHOUT_THE_SERVICE = f"""
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {SERVICE!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Nothing())
"""


def test_everything_of_the_client_is_there_without_the_service() -> None:
    """Each public name can be imported where none of the service's libraries is installed."""
    program = (
        "import heliograph, heliograph.client\nfor name in heliograph.__all__: getattr(heliograph, name)"
    )
    done = run(WITHOUT_THE_SERVICE + program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["exec", "tail", "publish", "load", "event", "cost", "ask"])
def test_the_command_line_is_there_without_the_service(command: str) -> None:
    """The commands that talk to a service need none of its libraries."""
    program = "from heliograph.cli import main\nmain()"
    done = run(WITHOUT_THE_SERVICE + program, command, "--help")
    assert done.returncode == 0, done.stderr


def test_to_serve_takes_more() -> None:
    """A client's installation that is to serve says what to install, without a traceback."""
    done = run(WITHOUT_THE_SERVICE + "from heliograph.cli import main\nmain()", "serve", "--port", "0")
    assert done.returncode == 2
    assert "pip install 'heliograph[server]'" in done.stderr
    assert "Traceback" not in done.stderr
