"""The head of a request, read only where nobody could read it differently.

A connection looks at heads to know where each request ends and which of them take a shortcut (see
``connection``). Whoever parses beside another parser invites smuggling, so this one knows a strict part
of RFC 9112 alone: HTTP/1.1, CRLF, a path as target, no header twice, a body of a known length or none,
no upgrade but WebSocket's. Of everything else it says ``None``, and hypercorn judges it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import overload
from urllib.parse import parse_qsl

import attrs
from werkzeug.datastructures import ImmutableMultiDict, MultiDict

HEAD_LIMIT = 32 * 1024
"""Bytes of a head; more is refused by hypercorn."""

END_OF_HEAD = re.compile(rb"\n\r?\n")
"""As lenient as h11's, so that no other end is found than hypercorn finds."""

_HEAD = re.compile(
    rb"([A-Z]+) (/[\x21-\x7e]*+) HTTP/1\.1\r\n"
    rb"((?:[-!#$%&'*+.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+)\r\n"
)
_LENGTH = re.compile(r"[0-9]{1,15}")
_NO_ARGS: MultiDict[str, str] = ImmutableMultiDict()


@attrs.frozen
class HeaderFields:
    """Header fields, each there once.

    Args:
        by_name: By names in small letters.
    """

    by_name: Mapping[str, str]

    @overload
    def get(self, name: str, /) -> str | None: ...
    @overload
    def get(self, name: str, default: str, /) -> str: ...

    def get(self, name: str, default: str | None = None, /) -> str | None:
        """Return a field by its name in whatever letters."""
        return self.by_name.get(name.lower(), default)

    def __getitem__(self, name: str, /) -> str:
        return self.by_name[name.lower()]


@attrs.frozen
class Head:
    """A head without doubt; of the form ``asked.Asked``.

    Args:
        raw: As it came, with the empty line.
        method: In capitals.
        path: Undecoded.
        query: Undecoded, without the question mark.
        headers: The header fields.
        length: Bytes of the body behind it.
        remote_addr: The address that it came from.
    """

    raw: bytes
    method: str
    path: str
    query: str
    headers: HeaderFields
    length: int
    remote_addr: str | None = None

    @cached_property
    def args(self) -> MultiDict[str, str]:
        """The query's parameters, read as werkzeug reads them."""
        if not self.query:
            return _NO_ARGS
        return MultiDict(parse_qsl(self.query, keep_blank_values=True, errors="werkzeug.url_quote"))

    @property
    def http_version(self) -> str:
        """There is one version that leaves no doubt."""
        return "1.1"

    @property
    def mimetype(self) -> str:
        """What the body is said to be, in small letters and without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def upgrades(self) -> bool:
        """Whether it asks for a WebSocket, so that no request follows it."""
        return "upgrade" in self.headers.by_name

    @property
    def plain(self) -> bool:
        """Whether it asks nothing of the connection but to go on, or to become a WebSocket."""
        if "expect" in self.headers.by_name:
            return False
        return self.upgrades or self.headers.get("connection", "keep-alive").lower() == "keep-alive"


def parse_head(raw: bytes, peer: str | None = None) -> Head | None:
    """Read a head; ``None`` if there is any doubt about it."""
    match = _HEAD.fullmatch(raw)
    if match is None or len(raw) > HEAD_LIMIT:
        return None
    method, target = match[1].decode(), match[2].decode()
    fields = [line.partition(":") for line in match[3].decode("latin-1").split("\r\n")[:-1]]
    headers = {name.lower(): value.strip(" \t") for name, _, value in fields}
    if len(headers) < len(fields) or "host" not in headers or "transfer-encoding" in headers:
        return None
    length = headers.get("content-length", "0")
    if not _LENGTH.fullmatch(length) or method == "CONNECT":
        return None
    if "upgrade" in headers and not (method == "GET" and length == "0" and _to_web_socket(headers)):
        return None
    path, _, query = target.partition("?")
    return Head(raw, method, path, query, HeaderFields(headers), int(length), peer)


def _to_web_socket(headers: Mapping[str, str]) -> bool:
    tokens = headers.get("connection", "").lower().split(",")
    return headers["upgrade"].lower() == "websocket" and "upgrade" in [token.strip() for token in tokens]
