"""Items to publish, out of the bytes of a file or a pipe. No I/O.

Two forms: NDJSON, given out line by line as it arrives, so that ``producer | heliograph publish`` is
live; and one JSON document, an object or an array of objects, which is known only at the end. Which it is
shows in the first line that is not blank: NDJSON if it is a JSON object of its own.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import Any

import orjson

from heliograph.model.errors import Malformed


class ItemParser:
    """Reads one input."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._line = 1
        self._lines: bool | None = None  # whether it is NDJSON; None: nothing but blanks was seen yet

    def feed(self, data: bytes) -> list[Any]:
        """Take bytes that were read; return the items that are complete by them.

        Raises:
            Malformed: A line is not JSON; the message has its number.
        """
        searched = len(self._buffer)  # so that one long line is not looked through for each piece of it
        self._buffer += data
        if self._line == 1 and self._buffer.startswith(BOM_UTF8):  # as Windows' programs begin a file
            del self._buffer[: len(BOM_UTF8)]
            searched = 0
        items: list[Any] = []
        start = 0
        while self._lines is not False:
            end = self._buffer.find(b"\n", max(start, searched))
            if end < 0:
                break
            line = bytes(self._buffer[start:end])
            if line.strip():
                if self._lines is None:
                    self._lines = _is_object(line)
                    continue
                items.append(_read(line, self._line))
            self._line += 1
            start = end + 1
        del self._buffer[:start]
        return items

    def finish(self) -> list[Any]:
        """Return the items that the end of the input completes.

        Raises:
            Malformed: It is not JSON; the message has the number of the line where that begins.
        """
        if not self._buffer.strip():
            return []
        document = _read(self._buffer, self._line)
        return document if isinstance(document, list) else [document]


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


def _read(text: bytes | bytearray, line: int) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"line {line} is not JSON: {error}") from None
