"""Holds values against the API's own documents, which are read from a running service.

Schemas of answers are open to clients, who must expect new fields. Here they are closed, so that a field
which is answered and not documented is found.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import attrs
import httpx
import orjson
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry
from referencing.jsonschema import DRAFT202012

METHODS = ("get", "post", "put", "patch", "delete")
URN = "urn:document"


def pointer(*parts: str) -> str:
    """Write a JSON pointer (RFC 6901)."""
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


def closed(value: Any) -> Any:
    """Return a document in which no object may have properties that are not named, unless it says so."""
    if isinstance(value, list):
        return [closed(one) for one in value]
    if not isinstance(value, dict):
        return value
    copy = {name: closed(one) for name, one in value.items()}
    if copy.get("type") == "object" and isinstance(copy.get("properties"), dict):
        copy.setdefault("additionalProperties", False)
    return copy


def nodes(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield every object of a document with its path."""
    if isinstance(value, dict):
        yield path, value
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for name, one in members:
        yield from nodes(one, (*path, str(name)))


@attrs.define(slots=False)
class Document:
    """One of the documents."""

    content: dict[str, Any]

    @cached_property
    def _registry(self) -> Registry[Any]:
        empty: Registry[Any] = Registry()
        made: Registry[Any] = empty.with_resource(URN, DRAFT202012.create_resource(closed(self.content)))
        return made

    def at(self, *path: str) -> Any:
        """Return what is at a path, following references."""
        found: Any = self.content
        for part in path:
            found = found[int(part)] if isinstance(found, list) else found[part]
            if isinstance(found, dict) and set(found) == {"$ref"}:
                found = self.at(*self.path_of(found["$ref"]))
        return found

    def path_of(self, reference: str) -> list[str]:
        """Return the path that a reference names."""
        assert reference.startswith("#/")
        return [part.replace("~1", "/").replace("~0", "~") for part in reference[2:].split("/")]

    def check(self, value: Any, *path: str) -> None:
        """Check a value against the schema at a path."""
        schema = {"$ref": f"{URN}#{pointer(*path)}"}
        validator = Draft202012Validator(schema, registry=self._registry, format_checker=FormatChecker())
        errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]
        assert not errors, errors

    # OpenAPI

    @property
    def operations(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Every operation by method, in capitals, and path."""
        return {
            (method.upper(), path): operation
            for path, item in self.content["paths"].items()
            for method, operation in item.items()
            if method in METHODS
        }

    def answering(self, status: int) -> Iterator[tuple[str, str]]:
        """Yield the method and path of all that may answer with a status, in an order that stays."""
        for (method, path), operation in self.operations.items():
            if str(status) in operation["responses"]:
                yield method, path

    def check_answer(self, method: str, path: str, answer: httpx.Response) -> None:
        """Check that an endpoint may answer so: its status, media type, headers and body."""
        place = ["paths", path, method.lower(), "responses", str(answer.status_code)]
        described = self.at(*place)
        if set(self.at(*place[:-1])[place[-1]]) == {"$ref"}:
            place = self.path_of(self.at(*place[:-1])[place[-1]]["$ref"])
        kind = answer.headers.get("content-type", "").partition(";")[0]
        if "content" not in described:
            assert answer.content == b""
            return
        if "*/*" in described["content"]:
            kind = "*/*"
        assert kind in described["content"], f"{method} {path} {answer.status_code} is {kind}"
        if answer.status_code >= 400:
            assert set(map(str.lower, described.get("headers", {}))) <= set(answer.headers)
        place += ["content", kind, "schema"]
        if line := self.at(*place).get("x-line"):
            for one in answer.text.splitlines():
                self.check(orjson.loads(one), *self.path_of(line["$ref"]))
        elif kind.endswith("json"):
            self.check(answer.json(), *place)
