"""The output of ``heliograph tail``: events as people read them.

A task's output is shown as the program wrote it: pieces of a line are joined, a rewind goes back to the start
of the line, and concurrent output of both streams goes to lines of its own. stderr is coloured. Escape
sequences in published text don't reach the terminal, except colours: other people's text must not control the
terminal. Every other event is one marked line.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Mapping

import attrs
import orjson
from rich.ansi import AnsiDecoder
from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

from heliograph.client.following import Gap, Item, Reset
from heliograph.client.line import Line
from heliograph.model.event import Event, event_json
from heliograph.model.task import error_text

_MARKS: Mapping[str, tuple[str, str]] = {
    "queued": ("○", "dim"),
    "running": ("●", "cyan"),
    "waiting_input": ("?", "bold yellow"),
    "completed": ("✔", "green"),
    "failed": ("✘", "bold red"),
    "cancelled": ("■", "yellow"),
    "lost": ("⚠", "bold magenta"),
}
_STREAM_STYLES: Mapping[str | None, str] = {"stderr": "red"}
_BACK_TO_START = Control((ControlType.ERASE_IN_LINE, 2), ControlType.CARRIAGE_RETURN)

_UNWANTED = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # operating system commands, such as setting the title
    r"|\x1b\[[0-?]*[ -/]*[@-ln-~]"  # control sequences, save colours (m)
    r"|\x1b(?!\[[0-9;:]*m)"
    r"|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]"
)


MOST_COLOURS = 1000
"""The most streams whose colour is remembered."""

Place = tuple[str, str | None]
"""A channel and a stream of it."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(
            errno.EPIPE, "nobody reads the output"
        )  # rich would exit, in the middle of things


class EventPrinter:
    """Prints the items of a stream.

    Args:
        many: Whether items come from several channels, so that each line names its channel.
        console: The console to write to; by default stdout.
    """

    def __init__(self, *, many: bool = False, console: Console | None = None) -> None:
        self._console = console or _Console()
        self._many = many
        self._open: Place | None = None
        """The task and the stream of the unfinished line."""
        self._line = Line(AnsiDecoder())
        """The unfinished line."""
        self._shown = 0
        """The number of its characters that are on the terminal."""
        self._colours: dict[Place, AnsiDecoder] = {}

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
        """End an unfinished line."""
        if self._open is not None:
            self._console.print()
            self._open = None

    def _output(self, event: Event) -> None:
        payload = event.payload
        place = (event.channel, payload.get("stream"))
        if self._open not in {None, place}:
            self.finish()
        *whole, last = payload["output"].replace("\r\n", "\n").split("\n")
        rewind = bool(payload.get("rewind"))
        for text in whole:
            self._write(event, place, text, rewind=rewind)
            self.finish()
            rewind = False
        self._write(event, place, last, rewind=rewind)
        if not payload.get("partial"):
            self.finish()

    def _write(self, event: Event, place: Place, text: str, *, rewind: bool) -> None:
        """Write into the unfinished line, or begin one; show what has changed."""
        begun = self._open is not None
        if not begun:
            self._open, self._line, self._shown = place, Line(self._colours_of(place)), 0
        self._line.write(text, rewind=rewind)
        if again := self._line.unchanged < self._shown:
            self._begin_again()
        prefix = self._prefix(event) if again or not begun else Text()
        more = self._line.render(self._shown)
        more.style = _STREAM_STYLES.get(place[1], "")
        self._print(prefix + more, end="")
        self._shown = self._line.unchanged

    def _begin_again(self) -> None:
        """Go back to the beginning of the shown line; begin another one if it can't be redrawn."""
        if self._console.is_terminal:
            self._console.control(_BACK_TO_START)
        else:
            self._console.print()
        self._shown = 0

    def _colours_of(self, place: Place) -> AnsiDecoder:
        """Return the decoder with a stream's current colour; the oldest streams are forgotten."""
        colours = self._colours.pop(place, None) or AnsiDecoder()
        self._colours[place] = colours
        if len(self._colours) > MOST_COLOURS:
            del self._colours[next(iter(self._colours))]
        return colours

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
        """Do nothing: all lines are whole."""


def _readable(text: str) -> Text:
    """Return published text without sequences that would control the terminal."""
    text = _UNWANTED.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return Text.from_ansi(text) if "\x1b" in text else Text(text)
