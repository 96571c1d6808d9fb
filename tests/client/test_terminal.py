from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from heliograph.client.following import Gap, Item, Reset
from heliograph.client.terminal import EventPrinter
from heliograph.model.event import Event
from heliograph.model.ids import make_id


def event(topic: str, channel: str = "task:t1", **payload: Any) -> Event:
    """Make an event."""
    return Event(make_id(1), channel, 1, topic, datetime(2026, 1, 1, tzinfo=UTC), payload)


def output(text: str, stream: str = "stdout", channel: str = "task:t1", **marks: bool) -> Event:
    """Make an output event."""
    return event("task.output", channel, output=text, stream=stream, **marks)


def shown(*items: Item, terminal: bool = False, many: bool = False) -> str:
    """Print items; return what came out."""
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=terminal, width=40, color_system="standard" if terminal else None
    )
    printer = EventPrinter(console=console, many=many)
    for item in items:
        printer.show(item)
    printer.finish()
    return file.getvalue()


def test_lines_as_written() -> None:
    """Output lines come out as they are: not wrapped, not interpreted, blanks kept."""
    text = "  [bold]x[/bold] :smile: " + "y" * 100
    assert shown(output(text), output("")) == text + "\n\n"


def test_joined_pieces() -> None:
    """Pieces of a line are joined; another stream gets a line of its own; an open line is ended."""
    items = [
        output("Na", partial=True),
        output("me: ", partial=True),
        output("Bob"),
        output("a", partial=True),
    ]
    assert shown(*items, output("no", "stderr"), output("b", partial=True)) == "Name: Bob\na\nno\nb\n"


def test_rewind() -> None:
    """On a terminal a rewind goes back to the start of the line, elsewhere it begins a new one."""
    items = [output("1%", partial=True), output("2%", rewind=True)]
    assert shown(*items) == "1%\n2%\n"
    assert shown(*items, terminal=True) == "1%\x1b[2K\r2%\n"


def test_stderr_is_coloured() -> None:
    """On a terminal stderr is red."""
    assert "\x1b[31mno\x1b[0m" in shown(output("no", "stderr"), terminal=True)


@pytest.mark.parametrize(
    "text", ["\x1b]0;title\x07", "\x1b[2J", "\x1b[?1049h", "\x9b31m", "\x07", "\x1bc"], ids=repr
)
def test_nothing_drives_the_terminal(text: str) -> None:
    """Escape sequences of others don't reach the terminal."""
    assert shown(output(f"a{text}b"), terminal=True) in {"ab\n", "a31mb\n", "acb\n"}
    assert not set(shown(event("x.y", text=text), terminal=True)) & set("\x07\x08\x9b")


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("spin |\b/\b-\b\\\bdone", "spin done"),
        ("count  1%\b\b\b 50%\b\b\b\b100%", "count 100%"),
        ("spin .\x1b[1G\x1b[Kspin ..\x1b[1G\x1b[Kready", "ready"),
        ("a lot of text\x1b[2K\x1b[Gready", "ready"),
        ("left 12345\x1b[5D54321", "left 54321"),
        ("keep this, not that\x1b[8D\x1b[K", "keep this, "),
        ("keep\x1b[1Kthat", "    that"),
        ("far\x1b[3Caway", "far   away"),
        ("a\x1b[2Db", "b"),
        ("100 of 200\r7", "700 of 200"),
        ("all tests passed\r\x1b[?25h", "all tests passed"),
        ("one\ntwo\r\nthree", "one\ntwo\nthree"),
    ],
)
def test_a_line_is_what_a_terminal_shows(written: str, line: str) -> None:
    """The cursor moves as the program wrote it, what is written over goes, and nothing else does."""
    assert shown(output(written)) == f"{line}\n"


@pytest.mark.parametrize("last", ["\x1b[1B", "\x1b[0m", "", "layer one"])
def test_a_rewind_erases_nothing(last: str) -> None:
    """A carriage return with nothing to see behind it leaves the line as it was."""
    items = [output("layer one: pushed", partial=True), output(last, rewind=True)]
    assert shown(*items) == "layer one: pushed\n"
    assert shown(*items, terminal=True) == "layer one: pushed\n"


def test_a_colour_holds_until_it_is_changed() -> None:
    """Over the end of its line, over pieces of one, and over a line of the other stream."""
    items = [
        output("\x1b[32mgreen", partial=True),
        output(" still"),
        output("err", "stderr"),
        output("and here\x1b[0m plain"),
        output("plain"),
    ]
    lines = shown(*items, terminal=True).splitlines()
    green = "\x1b[32m"
    assert lines[0] == f"{green}green\x1b[0m{green} still\x1b[0m"
    assert lines[2:] == [f"{green}and here\x1b[0m plain", "plain"]


def test_colours_pass() -> None:
    """Colours of others do, on a terminal."""
    assert shown(output("\x1b[32mgreen\x1b[0m"), terminal=True) == "\x1b[32mgreen\x1b[0m\n"
    assert shown(output("\x1b[32mgreen\x1b[0m")) == "green\n"


def test_statuses() -> None:
    """Statuses are marked lines with what matters of the result."""
    result = {"duration": 1.25, "cost_usd": 0.05, "error": "exit status 1"}
    failed = event("task.status", status="failed", result=result)
    running = event("task.status", status="running")
    assert shown(running, failed) == "● running\n✘ failed after 1.2 s for $0.0500 (exit status 1)\n"


def test_other_events() -> None:
    """Creation, other topics and notices are lines too."""
    created = event("task.created", task_id="t1", name="build", agent="a")
    items: list[Item] = [
        created,
        event("x.y", n=1),
        Gap("task:t1", "1-0", "2-0", 1200, "latest"),
        Reset("task:t1", "1-0", "2-0", "too old"),
    ]
    assert shown(*items).splitlines() == [
        "○ created by a: build",
        '· x.y {"n":1}',
        "⋯ 1,200 events are missing here (latest)",
        "⋯ the stream begins anew: too old",
    ]


def test_many_channels() -> None:
    """With several channels each line says from which, and their lines don't mix."""
    items = [output("a", partial=True), output("b", channel="task:t2"), output("c")]
    assert shown(*items, many=True) == "task:t1 a\ntask:t2 b\ntask:t1 c\n"
