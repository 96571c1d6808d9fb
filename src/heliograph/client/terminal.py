"""What ``heliograph tail`` shows: events as people read them.

A task's output comes out as the program wrote it: pieces of a line are joined, a rewind goes back to the
start of the line, and what both streams write at once is kept on lines of its own. stderr is coloured.
Escape sequences in what others published don't reach the terminal, save colours: it is text to look at,
not to obey. Everything that is not output is one marked line.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Mapping

import attrs
import orjson
from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

from heliograph.client.following import Gap, Item, Reset
from heliograph.model.event import Event, event_json
from heliograph.model.task import error_text

_MARKS: Mapping[str, tuple[str, str]] = {
    "queued": ("○", "dim"),
    "running": ("●", "cyan"),
    "waiting_input": ("?", "bold yellow"),
    "completed": ("✔", "green"),
    "failed": ("✘", "bold red"),
    "cancelled": ("■", "yellow"),
}
_STREAM_STYLES: Mapping[str | None, str] = {"stderr": "red"}
_BACK_TO_START = Control((ControlType.ERASE_IN_LINE, 2), ControlType.CARRIAGE_RETURN)

_UNWANTED = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # operating system commands, such as setting the title
    r"|\x1b\[[0-?]*[ -/]*[@-ln-~]"  # control sequences, save colours (m)
    r"|\x1b(?!\[[0-9;:]*m)"
    r"|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]"
)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(
            errno.EPIPE, "nobody reads the output"
        )  # rich would exit, in the middle of things


class EventPrinter:
    """Prints the items of a stream.

    Args:
        many: Items come from several channels, so each line says from which.
        console: Where to; by default stdout.
    """

    def __init__(self, *, many: bool = False, console: Console | None = None) -> None:
        self._console = console or _Console()
        self._many = many
        self._open: tuple[str, str | None] | None = None  # the channel and stream of the line begun

    def show(self, item: Item) -> None:
        """Print one item."""
        match item:
            case Event(topic="task.output"):
                self._output(item)
            case Event(topic="task.status"):
                self._status(item)
            case Event(topic="task.created"):
                by = f" by {item.payload['agent']}" if item.payload.get("agent") else ""
                self._mark(item, "○", f"created{by}: {item.payload.get('name', item.channel)}", "dim")
            case Event():
                self._mark(item, "·", f"{item.topic} {orjson.dumps(item.payload).decode()}", "dim")
            case Gap():
                missing = "some" if item.count is None else f"{item.count:,}"
                self._mark(None, "⋯", f"{missing} events are missing here ({item.reason})", "bold yellow")
            case Reset():
                self._mark(None, "⋯", f"the stream begins anew: {item.reason}", "bold yellow")

    def finish(self) -> None:
        """End a line that was begun."""
        if self._open is not None:
            self._console.print()
            self._open = None

    def _output(self, event: Event) -> None:
        payload = event.payload
        stream = payload.get("stream")
        place = (event.channel, stream)
        text = _readable(payload["output"])
        text.style = _STREAM_STYLES.get(stream, "")
        if self._open not in {None, place}:
            self.finish()
        if self._open is None:
            text = self._prefix(event) + text
        elif payload.get("rewind"):
            self._rewind()
        partial = bool(payload.get("partial"))
        self._print(text, end="" if partial else "\n")
        self._open = place if partial else None

    def _rewind(self) -> None:
        if self._console.is_terminal:
            self._console.control(_BACK_TO_START)
        else:
            self._console.print()

    def _status(self, event: Event) -> None:
        status = event.payload["status"]
        mark, style = _MARKS.get(status, ("·", ""))
        result = event.payload.get("result") or {}
        words = [status]
        if isinstance(result.get("duration"), int | float):
            words.append(f"after {result['duration']:.1f} s")
        if isinstance(result.get("cost_usd"), int | float):
            words.append(f"for ${result['cost_usd']:.4f}")
        if result.get("error"):
            words.append(f"({error_text(result['error'])})")
        self._mark(event, mark, " ".join(words), style)

    def _mark(self, event: Event | None, mark: str, words: str, style: str) -> None:
        self.finish()
        line = Text(f"{mark} {_readable(words).plain}", style=style)
        self._print(line if event is None else self._prefix(event) + line, end="\n")

    def _prefix(self, event: Event) -> Text:
        return Text(f"{event.channel} ", style="dim") if self._many else Text()

    def _print(self, text: Text, end: str) -> None:
        self._console.print(text, end=end, soft_wrap=True, highlight=False)


class JsonPrinter:
    """Prints items to stdout as JSON, one a line: events as REST lists them, notices with their ``type``."""

    def show(self, item: Item) -> None:
        """Print one item."""
        if isinstance(item, Event):
            line = event_json(item)
        else:
            line = orjson.dumps({"type": type(item).__name__.lower(), **attrs.asdict(item)})
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()

    def finish(self) -> None:
        """Nothing is left to do: lines are whole."""


def _readable(text: str) -> Text:
    """Make text of what someone published, without what would drive the terminal."""
    text = _UNWANTED.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return Text.from_ansi(text) if "\x1b" in text else Text(text)
