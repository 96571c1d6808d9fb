r"""Lines from a program's bytes, in pieces that a reader can put together again. No I/O.

A piece becomes one ``task.output`` event. Most pieces are one line; whole lines that come together stay
together as a *run* of lines, joined by line ends, so that a line costs next to nothing until it is sent.
There are three exceptions:

- *An unfinished line* (a prompt, a progress dot) is handed out by ``flush`` as it is, with
  ``partial``: more of the same line follows. A piece without ``partial`` ends its line; it may be empty.
- *A very long line* is handed out in parts of at most ``PART_CHARACTERS``, all but the last ``partial``.
- *A lone carriage return*, as progress bars write it, goes back to the start of the line: the text so far is
  a ``partial`` piece, and the next piece has ``rewind``: it overwrites the line so far.

To get a line as on a terminal, join the pieces of a stream until one comes without ``partial``, and drop what
was joined whenever a piece has ``rewind``. Nothing of the program's output is dropped: a reader that ignores
both marks gets each piece as a line of its own. ``\r\n`` (and ``\r\r\n``) is one line end, even if it is
split between two reads.

Bytes that are not UTF-8 become U+FFFD; a character that is split between two reads stays whole. NUL becomes
U+2400 (its visible symbol), since the service does not accept NUL.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

import attrs

PART_CHARACTERS = 64 * 1024
"""Even if JSON writes each of them as ``\\u001b``, a part stays far below the limit of an event."""

RUN_CHARACTERS = 8 * 1024
"""The longest run: a record of one run must not become too many events."""

_BREAK = re.compile(r"\r*\n|\r+")


@attrs.frozen
class Piece:
    """A line, a run of lines, or a marked piece of a line.

    Args:
        text: The text without the last line end.
        partial: Whether more of the same line follows.
        rewind: Whether it overwrites the line so far.
    """

    text: str
    partial: bool = False
    rewind: bool = False


class LineAssembler:
    """Turns the bytes of one stream into pieces."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self._returns = (
            ""  # carriage returns at the end of the last read; the next byte tells: a line end or a rewind
        )
        self._begun = False  # whether a part of this line was handed out
        self._rewind = False

    @property
    def waiting(self) -> bool:
        """Whether there is text that was not handed out yet."""
        return bool(self._text)

    def feed(self, data: bytes) -> list[Piece]:
        """Take bytes that were read; return the pieces that they complete."""
        return self._take(self._decoder.decode(data))

    def flush(self) -> list[Piece]:
        """Return the unfinished line as it is; nothing if there is none."""
        return self._hand_out(partial=True) if self._text else []

    def finish(self) -> list[Piece]:
        """Return the rest at the end of the stream."""
        pieces = self._take(self._decoder.decode(b"", final=True))
        if self._text:
            pieces += self._hand_out(partial=False)
        return pieces

    def _take(self, text: str) -> list[Piece]:
        text = self._returns + text.replace("\0", "\u2400")
        self._returns = ""
        if "\r" not in text and not self._begun:
            whole, end, text = (self._text + text).rpartition("\n")
            self._text = ""
            return [*self._runs(whole), *self._take_apart(text)] if end else self._take_apart(text)
        return self._take_apart(text)

    def _runs(self, whole: str) -> Iterator[Piece]:
        """Cut whole lines into runs, and a very long line into parts."""
        position = 0
        while position <= len(whole):
            end = len(whole)
            if end - position > RUN_CHARACTERS:
                end = whole.rfind("\n", position, position + RUN_CHARACTERS)
                if end < 0:
                    end = whole.find("\n", position + RUN_CHARACTERS)
                if end < 0:
                    end = len(whole)
            self._text = whole[position:end]
            yield from self._hand_out(partial=False)
            position = end + 1

    def _take_apart(self, text: str) -> list[Piece]:
        """Take text with carriage returns, one line end or carriage return after the other."""
        pieces: list[Piece] = []
        position = 0
        for match in _BREAK.finditer(text):
            self._text += text[position : match.start()]
            position = match.end()
            if match[0].endswith("\n"):
                pieces += self._hand_out(partial=False)
            elif position == len(text):
                self._returns = match[0]
            else:
                pieces += self.flush()
                self._rewind = self._begun
        self._text += text[position:]
        if len(self._text) >= PART_CHARACTERS:
            pieces += self.flush()
        return pieces

    def _hand_out(self, *, partial: bool) -> list[Piece]:
        pieces = []
        while len(self._text) > PART_CHARACTERS:
            pieces.append(Piece(self._text[:PART_CHARACTERS], True, self._rewind))
            self._text, self._rewind = self._text[PART_CHARACTERS:], False
        pieces.append(Piece(self._text, partial, self._rewind))
        self._text, self._rewind, self._begun = "", False, partial
        return pieces
