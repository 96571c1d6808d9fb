"""What the documents and the service tell a user to type is typed, as it stands, and shows lines.

Only what names a place of the user's own is put in: where the service is, and which task. What takes minutes
(``make``, the suite itself) is only asked what it would do. A block with ``…`` in it is no command yet.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import pytest
from tests.servers import free_port, wait_until

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{page.name}" for page in sorted(ROOT.glob("docs/*.md")))]
SECONDS = 60

COMMAND = re.compile(r"(?:\S+/)?(?:heliograph|curl|pytest|make|my-agent) ")
ENDLESS = re.compile(r"heliograph (?:tail|serve)|curl -N")
SHORTER = {
    r"^make ": "make -n ",
    r"bin/pytest ": "bin/pytest --collect-only -q ",
    r"--streams \d+": "--streams 10",
    r"--duration \d+": "--duration 1",
    r"--timeout \d+": "--timeout 1",
}
TASK = "seen"
ACTIVATE = ". .venv/bin/activate"

pytestmark = pytest.mark.skipif(
    not (ROOT / ".venv/bin/heliograph").exists() or shutil.which("curl") is None,
    reason="needs curl, and the checkout's own virtual environment",
)


@attrs.frozen
class Visitor:
    """A user in a folder like a checkout, where the demo fleet is served."""

    folder: Path
    port: int
    environment: Mapping[str, str]

    def type(self, line: str) -> str:
        """Type a line; return what it shows, of one that goes on until Ctrl-C the first line of it."""
        with subprocess.Popen(
            ["timeout", str(SECONDS), "bash", "-c", line],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as typed:
            assert typed.stdout is not None
            if ENDLESS.search(line):
                shown = typed.stdout.readline()
                typed.terminate()
                typed.communicate()
                return shown
            shown, _ = typed.communicate()
            assert typed.returncode == 0, f"{line}\n{shown}"
            return shown


@pytest.fixture(scope="module")
def visitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    """Serve the demo fleet as ``make run`` does."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in (".venv", "Makefile", "config.toml", "constraints.txt", "pyproject.toml", "src", "tests"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".curlrc").write_text("fail\nsilent\nshow-error\n")
    (folder / "events.json").write_text('[{"topic": "a.b"}]')
    (folder / "my-agent").write_text('#!/bin/sh\necho \'{"topic": "a.b", "channel": "workflow:W"}\'\n')
    (folder / "my-agent").chmod(0o755)
    port = free_port()
    environment = {
        "HOME": str(folder),
        "PATH": f"/usr/local/bin:/usr/bin:/bin:{folder}",
        "HELIOGRAPH_DATA": str(folder / "data"),
        "HELIOGRAPH_URL": f"http://127.0.0.1:{port}",
        "LOG_LEVEL": "ERROR",
    }
    command = [".venv/bin/heliograph", "serve", "--demo", "--port", str(port)]
    with (
        (folder / "greeting").open("wb") as greeting,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=greeting) as process,
    ):
        try:
            visitor = Visitor(folder, port, environment)
            wait_until(lambda: (folder / "greeting").stat().st_size > 0, "the service greets")
            visitor.type(
                f"{ACTIVATE}; heliograph exec --task-id {TASK} -- echo hello; my-agent | heliograph publish"
            )
            yield visitor
        finally:
            process.terminate()


def commands(text: str, indent: str = "    ") -> list[str]:
    """Return the commands of a text's blocks, those of several lines joined."""
    found: list[str] = []
    for block in re.split(r"\n\n", text.replace("\\\n", "")):
        lines = [line.removeprefix(indent) for line in block.split("\n") if line.startswith(indent)]
        for line in lines if "…" not in block else []:
            if found and _is_open(found[-1]):
                found[-1] += "\n" + line
            elif COMMAND.match(line):
                found.append(line)
    return found


def _is_open(command: str) -> bool:
    """Tell whether a quotation of a command goes on in its next line."""
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_tells_to_type_shows_lines(visitor: Visitor, page: str) -> None:
    """Each command of a page works in a checkout, and shows something."""
    begin = "" if page in {"README.md", "CONTRIBUTING.md"} else f"{ACTIVATE}; "
    for written in commands((ROOT / page).read_text()):
        line = re.sub(r"(127\.0\.0\.1|localhost):5000", f"127.0.0.1:{visitor.port}", written)
        line = re.sub(r"--port 5000", f"--port {free_port()}", line)
        line = re.sub(r"\bID\b", TASK, line)
        for long, short in SHORTER.items():
            line = re.sub(long, short, line)
        assert visitor.type(begin + line), written


def test_what_the_service_tells_to_type_shows_lines(visitor: Visitor) -> None:
    """Each command of the greeting works as it was printed."""
    lines = commands((visitor.folder / "greeting").read_text(), "  ")
    assert len(lines) == 4
    for line in lines:
        assert visitor.type(line), line
