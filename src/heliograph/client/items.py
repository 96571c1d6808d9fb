"""Items to publish, from the bytes of a file or a pipe. No I/O.

There are two forms: NDJSON, whose items are returned line by line as they arrive, so that ``producer |
heliograph publish`` is live; and one JSON document, an object or an array of objects, whose items are known
only at the end. The first line that is not blank decides: if it is a whole JSON object, the input is NDJSON.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from typing import Any

import attrs

from heliograph.model.errors import Invalid
from heliograph.model.exact_json import parse_json


class ItemParser:
    """Parses one input."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._line = 1
        self._count = 0
        self._lines: bool | None = None  # whether it is NDJSON; None: only blanks so far

    def feed(self, data: bytes) -> list[Any]:
        """Take bytes that were read; return the items that they complete.

        Raises:
            Malformed: A line is not JSON; the message has its number.
            Invalid: It has numbers that would be read back as others.
        """
        searched = len(self._buffer)  # so that one long line is not searched anew for each of its pieces
        self._buffer += data
        items: list[Any] = []
        start = 0
        while self._lines is not False:
            end = self._buffer.find(b"\n", max(start, searched))
            if end < 0:
                break
            line = _unmarked(self._buffer[start:end])
            if line.strip():
                if self._lines is None:
                    self._lines = _is_object(line)
                    continue
                items.append(self._read(line))
            self._line += 1
            start = end + 1
        del self._buffer[:start]
        return items

    def finish(self) -> list[Any]:
        """Return the items that the end of the input completes.

        Raises:
            Malformed: It is not JSON; the message has the number of the line where the fault begins.
            Invalid: It has numbers that would be read back as others.
        """
        text = _unmarked(self._buffer)
        if not text.strip():
            return []
        document = self._read(text)
        return document if isinstance(document, list) else [document]

    def _read(self, text: bytes) -> Any:
        try:
            value = parse_json(text, f"line {self._line}")
        except Invalid as invalid:
            here = self._count
            raise Invalid(
                [attrs.evolve(error, index=here + (error.index or 0)) for error in invalid.errors]
            ) from None
        self._count += 1
        return value


def _unmarked(text: bytearray) -> bytes:
    """Return a text without the mark that Windows programs write; joined files have it in their middle."""
    return bytes(text).removeprefix(BOM_UTF8)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)  # NaN and half characters, too, are refused as this line's
    except (ValueError, RecursionError):
        return False
