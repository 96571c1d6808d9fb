"""Reading one file of a workflow, field by field: a wrong field is reported, and its default used.

It is better to show a workflow without its description, because that is a number, than to show nothing, as
long as the problem is shown, too. Unknown fields are ignored: the files may be newer than this service.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from heliograph.model.yaml import Document, Place


def printable(name: str) -> str:
    """Return a file's name as text; bytes that are not UTF-8 (surrogates in Python) become ``?``."""
    return name.encode("utf-8", "replace").decode()


@attrs.frozen
class FileProblem:
    """A problem in a workflow's files.

    Args:
        file: The file's path, relative to the workflow's folder; ``.`` for the folder itself.
        detail: The fault, and the value that would be right.
        field: The path of the value in the file, such as ``nodes[3].type``; empty for the whole file.
        line: The line, from 1, if it is known.
    """

    file: str = attrs.field(converter=printable)
    detail: str = attrs.field(converter=printable)
    field: str = ""
    line: int | None = None


class Fields:
    """The fields of one object in a file.

    Args:
        document: The parsed file.
        file: Its name in problems.
        problems: The list that problems are added to.
        place: The path of the object in the file.
        value: The object.
    """

    def __init__(
        self,
        document: Document,
        file: str,
        problems: list[FileProblem],
        place: Place,
        value: Mapping[str, Any],
    ) -> None:
        self._document = document
        self._file = file
        self._problems = problems
        self._place = place
        self._value = value

    @classmethod
    def of(cls, document: Document, file: str, problems: list[FileProblem]) -> Fields:
        """Begin with a whole file, which must be one object; an empty file is an object without fields."""
        fields = cls(document, file, problems, (), {})
        value = document.value
        if value is not None and not isinstance(value, dict):
            fields.wrong("", "the file must be an object: lines of the form name: value")
            return fields
        return cls(document, file, problems, (), value or {})

    def wrong(self, name: str, detail: str, *further: str | int) -> None:
        """Report a problem of a field, or of a value inside it."""
        place = (*self._place, *((name,) if name else ()), *further)
        self._problems.append(FileProblem(self._file, detail, written(place), self._document.line(*place)))

    def get(self, name: str) -> Any:
        """Return a field as it is; ``None`` if it is missing."""
        return self._value.get(name)

    def text(self, name: str, default: str = "") -> str:
        """Read text."""
        value = self._value.get(name)
        if value is None:
            return default
        if isinstance(value, str):
            return value
        self.wrong(name, "must be text; put it in quotes if it is one")
        return default

    def choice(self, name: str, known: Sequence[str], default: str) -> str:
        """Read one of some words, in lower case."""
        value = self.text(name, default).lower()
        if value not in known:
            self.wrong(name, f"must be one of {', '.join(known)}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """Read a boolean."""
        value = self._value.get(name)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        self.wrong(name, "must be true or false")
        return default

    def whole(self, name: str, default: int | None = None) -> int | None:
        """Read a whole number, from 0."""
        value = self._value.get(name)
        if value is None:
            return default
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        self.wrong(name, "must be a whole number, from 0")
        return default

    def texts(self, name: str) -> tuple[str, ...]:
        """Read a list of texts."""
        texts = []
        for index, value in enumerate(self._list(name)):
            if isinstance(value, str):
                texts.append(value)
            else:
                self.wrong(name, "must be text", index)
        return tuple(texts)

    def inside(self, name: str) -> Fields | None:
        """Enter an object; ``None`` if it is missing."""
        value = self._value.get(name)
        if value is None:
            return None
        if isinstance(value, dict):
            return Fields(self._document, self._file, self._problems, (*self._place, name), value)
        self.wrong(name, "must be an object")
        return None

    def each(self, name: str) -> Iterator[Fields]:
        """Enter the objects of a list, one by one."""
        for index, value in enumerate(self._list(name)):
            if isinstance(value, dict):
                place = (*self._place, name, index)
                yield Fields(self._document, self._file, self._problems, place, value)
            else:
                self.wrong(name, "must be an object", index)

    def whole_object(self) -> dict[str, Any]:
        """Return all fields as they are."""
        return dict(self._value)

    def _list(self, name: str) -> Sequence[Any]:
        value = self._value.get(name)
        if value is None:
            return ()
        if isinstance(value, list):
            return value
        self.wrong(name, "must be a list")
        return ()


def written(place: Place) -> str:
    """Format the path of a value: ``nodes[3].type``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return "".join(parts).removeprefix(".")
