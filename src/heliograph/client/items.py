"""Items to publish, from the bytes of a file or a pipe. No I/O.

There are two forms: NDJSON, whose items are returned line by line as they arrive, so that ``producer |
heliograph publish`` is live; and one JSON document, an object or an array of objects, whose items are known
only at the end. The first line that is not blank decides: if it is a whole JSON object, the input is NDJSON.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import Any

import orjson

from heliograph.model.errors import Malformed


class ItemParser:
    """Parses one input."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._line = 1
        self._lines: bool | None = None  # whether it is NDJSON; None: only blanks so far

    def feed(self, data: bytes) -> list[Any]:
        """Take bytes that were read; return the items that they complete.

        Raises:
            Malformed: A line is not JSON; the message has its number.
        """
        searched = len(self._buffer)  # so that one long line is not searched anew for each of its pieces
        self._buffer += data
        if self._line == 1 and self._buffer.startswith(BOM_UTF8):  # as Windows programs write it
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
            Malformed: It is not JSON; the message has the number of the line where the fault begins.
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
