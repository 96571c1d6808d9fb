from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from heliograph import __version__
from heliograph.cli import main

NOBODY = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings from outside."""
    for name in ("HELIOGRAPH_URL", "HELIOGRAPH_API_KEY", "HELIOGRAPH_API_KEYS", "PORT", "HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)  # there is no config.toml


def run(*arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, arguments)


def test_help() -> None:
    """Help names every command, with a sentence for each."""
    help_text = run("--help").output
    for command in (
        "backup",
        "check",
        "config",
        "exec",
        "keys",
        "load",
        "migrate",
        "publish",
        "restore",
        "serve",
        "tail",
    ):
        assert f"\n  {command} " in help_text


def test_version() -> None:
    """The version is told."""
    assert run("--version").output.endswith(f" {__version__}\n")


def test_starts_light() -> None:
    """Neither Trio nor httpx nor the service is imported before a command needs it."""
    heavy = "'trio', 'httpx', 'quart', 'sqlalchemy'"
    code = f"import sys, heliograph.cli; print([name for name in ({heavy}) if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"[]\n"


def test_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Config prints what is in force: the file, and the environment over it, without secrets."""
    (tmp_path / "my.toml").write_text("[server]\nport = 5001\nbacklog = 7\n")
    monkeypatch.setenv("PORT", "5002")
    monkeypatch.setenv("HELIOGRAPH_API_KEYS", "me:secret")
    lines = run("config", "--config", "my.toml").output.splitlines()
    assert "server.port = 5002" in lines
    assert "server.backlog = 7" in lines
    assert "secret" not in "".join(lines)


@pytest.mark.parametrize("command", [["serve"], ["config"], ["migrate"]])
def test_wrong_settings(command: list[str], tmp_path: Path) -> None:
    """Each wrong setting is a line on stderr, and the exit status is 2."""
    (tmp_path / "config.toml").write_text('[server]\nport = "many"\nprot = 1\n')
    result = run(*command)
    assert result.exit_code == 2
    assert sorted(line.split(" ")[1] for line in result.stderr.splitlines()) == [
        "server.port:",
        "server.prot:",
    ]


def test_migrate_says_what_it_did(tmp_path: Path) -> None:
    """The first time it names the schema that was made, the second that there was nothing to do."""
    first, second = (run("migrate").stdout for _ in range(2))
    assert first.startswith("heliograph-data has the schema ")
    assert first.endswith(" now; before it had none\n")
    assert second.endswith(" already: nothing to do\n")


def test_a_copy_is_made_checked_and_put_back(tmp_path: Path) -> None:
    """What is wrong with a copy, or in its way, is one line, and the status says so."""
    environ = {"HELIOGRAPH_DATA": str(tmp_path / "data")}
    copy = str(tmp_path / "copy.db")
    commands = [
        (["migrate"], 0, "has the schema"),
        (["check"], 0, "nothing is wrong with it"),
        (["backup", copy], 0, "is a copy"),
        (["backup", copy], 2, "is there already"),
        (["restore", copy], 2, "is there already"),
    ]
    for arguments, expected, says in commands:
        result = CliRunner().invoke(main, arguments, env=environ)
        assert (result.exit_code, says in result.output) == (expected, True), result.output
    other = {"HELIOGRAPH_DATA": str(tmp_path / "other")}
    assert CliRunner().invoke(main, ["restore", copy], env=other).exit_code == 0
    away = CliRunner().invoke(main, ["check"], env={"HELIOGRAPH_DATA": str(tmp_path / "nothing")})
    assert (away.exit_code, len(away.output.splitlines())) == (2, 1)


@pytest.mark.parametrize("state", ["", "relative/folder"])
def test_a_state_folder_that_is_not_absolute_counts_as_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str
) -> None:
    """Output that waits is below the home folder, wherever the command is run."""
    monkeypatch.setenv("XDG_STATE_HOME", state)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(tmp_path / ".local/state/heliograph/spool") in run("publish", "--spooled").stderr


def test_a_host_that_is_none_is_wrong_usage() -> None:
    """The option is checked as the setting is."""
    result = run("serve", "--host", "[::1]")
    assert result.exit_code == 2
    assert "such as 127.0.0.1, ::1" in result.stderr


def test_serve_refuses_an_open_address() -> None:
    """What only shows when serving is told in the same way."""
    result = run("serve", "--host", "0.0.0.0", "--port", "0")
    assert result.exit_code == 2
    assert "server.host" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["publish", "--topic", "a", "--payload", "[1]"], "--payload must be a JSON object"),
        (["publish", "--topic", "a", "--payload", "{"], "--payload is not valid JSON"),
        (["tail", "nonsense"], "CHANNEL"),
        (["tail", "task:x", "--transport", "fax"], "--transport"),
        (["tail", "task:x", "--topic", "\udcff"], "--topic: must be"),
        (["tail", "task:x", "--url", "localhost:5000"], "'localhost:5000' is not a URL"),
        (["tail", "task:x", "--url", "http://[1"], "is not a URL"),
        (["tail", "task:x", "--api-key", "clé"], "--api-key"),
    ],
)
def test_usage(arguments: list[str], says: str) -> None:
    """Wrong usage is told, with exit status 2."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_unreachable() -> None:
    """A service that stays away has an exit status of its own, and is named."""
    result = run("publish", "--topic", "a.b", "--wait", "0.1", "--url", NOBODY)
    assert result.exit_code == 3
    assert result.stderr.startswith(f"heliograph: the service at {NOBODY} can't be reached")


def test_items_that_are_no_objects(tmp_path: Path) -> None:
    """Input that makes no sense is told without asking the service."""
    file = tmp_path / "items"
    file.write_text("[1]")
    expected = "heliograph: item 0: each item must be a JSON object\n"
    assert run("publish", "--url", NOBODY, str(file)).stderr == expected
    file.write_text("nonsense\n")
    assert "line 1" in run("publish", "--url", NOBODY, str(file)).stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_is_told_in_one_line() -> None:
    """What a command prints may not be written: that is no traceback, and no success."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "heliograph", "config"], stdout=full, stderr=subprocess.PIPE, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == b"heliograph: the output can't be written: No space left on device\n"


def test_a_reader_that_has_gone_ends_a_command_silently() -> None:
    """As with ``| head``: nothing is said about the pipe."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "heliograph", "config"], stdout=pipe, stderr=subprocess.PIPE, timeout=60
        )
    assert (done.returncode, done.stderr) == (1, b"")


def test_interrupted() -> None:
    """Ctrl-C ends a command that waits, without a traceback."""
    command = [sys.executable, "-m", "heliograph", "tail", "task:x", "--url", NOBODY]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"trying again" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, b"", b"")
