"""One line as a terminal shows it: text that the program overwrites, erases and colours.

A carriage return, a backspace or a cursor sequence moves the cursor and erases nothing; text that is then
written replaces what was there. A colour holds until it is changed, across line ends, too. All other control
sequences are left out, since other people's text must not control the terminal.
"""

from __future__ import annotations

import re
from itertools import groupby

from rich.ansi import AnsiDecoder
from rich.style import Style
from rich.text import Text

FARTHEST = 1000
"""The most columns that the cursor may be moved beyond the text."""

_TOKEN = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # operating system commands, such as setting the title
    r"|\x1b\[(?P<numbers>[0-?]*)[ -/]*(?P<command>[@-~])"
    r"|(?P<control>[\x00-\x08\x0a-\x1f\x7f-\x9f])"
)


class Line:
    """One line.

    Args:
        colours: The decoder with the current colour; shared by the lines of one stream.
    """

    def __init__(self, colours: AnsiDecoder) -> None:
        self._colours = colours
        self._cells: list[tuple[str, Style]] = []
        self._cursor = 0
        self.unchanged = 0
        """The number of its first characters that have not changed since it was last rendered."""

    def write(self, text: str, *, rewind: bool = False) -> None:
        """Write text at the cursor; with ``rewind`` after going back to the beginning."""
        if rewind:
            self._cursor = 0
        position = 0
        for token in _TOKEN.finditer(text):
            self._put(text[position : token.start()])
            position = token.end()
            if token["command"] == "m":
                self._colours.decode_line(token[0])
            elif token["command"]:
                self._move(token["command"], token["numbers"])
            elif token["control"] == "\b":
                self._cursor = max(0, self._cursor - 1)
            elif token["control"] == "\r":
                self._cursor = 0
        self._put(text[position:])

    def render(self, begin: int = 0) -> Text:
        """Return the line from the character ``begin`` on; the line then counts as unchanged."""
        self.unchanged = len(self._cells)
        runs = groupby(self._cells[begin:], key=lambda cell: cell[1])
        return Text.assemble(*(("".join(character for character, _ in run), style) for style, run in runs))

    def _put(self, text: str) -> None:
        if not text:
            return
        missing = self._cursor - len(self._cells)
        if missing > 0:
            self._cells += [(" ", Style.null())] * missing
        begin, end = self._cursor, self._cursor + len(text)
        cells = [(character, self._colours.style) for character in text]
        if self._cells[begin:end] != cells:
            self._cells[begin:end] = cells
            self.unchanged = min(self.unchanged, begin)
        self._cursor = end

    def _move(self, command: str, numbers: str) -> None:
        number = int(numbers) if numbers.isdecimal() and len(numbers) < 6 else 0
        match command:
            case "D":
                self._cursor = max(0, self._cursor - max(number, 1))
            case "C":
                self._cursor = min(self._cursor + max(number, 1), len(self._cells) + FARTHEST)
            case "G":
                self._cursor = min(max(number, 1) - 1, len(self._cells) + FARTHEST)
            case "K" if number == 0:
                self._erase(self._cursor)
            case "K":
                keep = self._cells[self._cursor + 1 :] if number == 1 else []
                self._erase(0)
                self._cells = [(" ", Style.null())] * (len(keep) and self._cursor + 1) + keep

    def _erase(self, begin: int) -> None:
        if begin < len(self._cells):
            del self._cells[begin:]
            self.unchanged = min(self.unchanged, begin)
