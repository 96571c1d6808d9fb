"""The head of a request, read so that nobody could read it differently.

A connection reads heads to know where each request ends and which of them take a shortcut (see
``connection``). Two parsers that disagree about a request invite smuggling, so there are two ways and no
third. A strict subset of RFC 9112 is read by one expression: HTTP/1.1, CRLF, a path as target, no header
twice, a body of a known length or none, no upgrade but WebSocket's. Any other head is read by h11,
hypercorn's own parser, and rewritten in that plain form, so hypercorn is given exactly what was read here.

A head is refused here if h11 refuses it, or if it must not reach hypercorn: HTTP/2 in any form (with a closed
window hypercorn keeps whole answers in memory, without a deadline), a body length given in two ways, and an
invalid WebSocket handshake.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import overload
from urllib.parse import parse_qsl

import attrs
import h11
from werkzeug.datastructures import ImmutableMultiDict, MultiDict

from heliograph.http.wire.body import ChunkedBody, MeasuredBody, SizedBody

HEAD_LIMIT = 32 * 1024
"""The most bytes of a head."""

WEB_SOCKET_VERSION = "13"
END_OF_HEAD = re.compile(rb"\n\r?\n")
"""As lenient as h11's, so that both find the same end."""

_HEAD = re.compile(
    rb"([A-Z]+) (/[\x21-\x7e]*+) HTTP/1\.1\r\n"
    rb"((?:[-!#$%&'*+.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+)\r\n"
)
_LENGTH = re.compile(r"[0-9]{1,15}")
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
"""Base64 of 16 bytes (RFC 6455, section 4.1)."""

_NO_ARGS: MultiDict[str, str] = ImmutableMultiDict()
_OF_THE_CONNECTION = {b"connection", b"upgrade", b"http2-settings"}


class HeadRefused(Exception):
    """A head that can't be served; the connection ends with the answer.

    Args:
        status: HTTP status of the answer.
        detail: The fault.
        headers: Further headers of the answer.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.detail = detail
        self.headers = headers or {}
        super().__init__(detail)


@attrs.frozen
class HeaderFields:
    """Header fields, each there once.

    Args:
        by_name: Values by lower-case name.
    """

    by_name: Mapping[str, str]

    @overload
    def get(self, name: str, /) -> str | None: ...
    @overload
    def get(self, name: str, default: str, /) -> str: ...

    def get(self, name: str, default: str | None = None, /) -> str | None:
        """Return a field's value; the case of ``name`` does not matter."""
        return self.by_name.get(name.lower(), default)

    def __getitem__(self, name: str, /) -> str:
        return self.by_name[name.lower()]


@attrs.frozen
class Head:
    """An unambiguous head; it implements ``asked.Asked``.

    Args:
        raw: The bytes that hypercorn is given, with the empty line.
        method: The method, as it came.
        path: The path, undecoded.
        query: The query, undecoded, without the question mark.
        headers: The header fields; the last value of one that came more than once.
        length: Length of the body in bytes; ``None`` when it is chunked.
        http_version: ``1.1`` or ``1.0``.
        strict: Whether it came in the strict form, so that a shortcut may serve it.
    """

    raw: bytes
    method: str
    path: str
    query: str
    headers: HeaderFields
    length: int | None
    http_version: str = "1.1"
    strict: bool = True

    @cached_property
    def args(self) -> MultiDict[str, str]:
        """The query's parameters, read as werkzeug reads them."""
        if not self.query:
            return _NO_ARGS
        return MultiDict(parse_qsl(self.query, keep_blank_values=True, errors="werkzeug.url_quote"))

    @property
    def mimetype(self) -> str:
        """The media type of the body, in lower case and without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def upgrades(self) -> bool:
        """Whether it asks for a WebSocket, so that no request follows it."""
        return "upgrade" in self.headers.by_name

    @property
    def closes(self) -> bool:
        """Whether no request follows it."""
        return self.http_version == "1.0" or "close" in _tokens(self.headers.by_name)

    @property
    def plain(self) -> bool:
        """Whether it is strict, and asks the connection only to stay open or to become a WebSocket."""
        if not self.strict or "expect" in self.headers.by_name:
            return False
        names = self.headers.by_name
        return "upgrade" in names or names.get("connection", "keep-alive").lower() == "keep-alive"

    def body(self) -> MeasuredBody:
        """Return what measures the whole request, head included."""
        if self.length is None:
            return ChunkedBody(len(self.raw))
        return SizedBody(len(self.raw) + self.length)


def read_head(raw: bytes) -> Head:
    """Parse a head, which ends with its empty line.

    Raises:
        HeadRefused: It can't be served.
    """
    head = _read_strict(raw) or _read_by_h11(raw)
    if head.upgrades:
        _check_web_socket(head.headers)
    return head


def _read_strict(raw: bytes) -> Head | None:
    """Parse a head of the strict form; ``None`` if it has another form."""
    match = _HEAD.fullmatch(raw)
    if match is None:
        return None
    method, target = match[1].decode(), match[2].decode()
    lines = match[3].decode("latin-1").split("\r\n")[:-1]
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip(" \t")
    if len(headers) < len(lines) or "host" not in headers or "transfer-encoding" in headers:
        return None
    length = headers.get("content-length", "0")
    if not _LENGTH.fullmatch(length) or method == "CONNECT":
        return None
    if "upgrade" in headers and not (method == "GET" and length == "0" and _to_web_socket(headers)):
        return None
    path, _, query = target.partition("?")
    return Head(raw, method, path, query, HeaderFields(headers), int(length))


def _read_by_h11(raw: bytes) -> Head:
    request = _request_of(raw)
    version, method = request.http_version.decode(), request.method.decode()
    fields = [(name.lower(), value.strip(b" \t")) for name, value in request.headers]
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in fields}
    chunked = "transfer-encoding" in headers
    if version not in {"1.0", "1.1"}:
        raise HeadRefused(505, "streams and questions are served over HTTP/1.1")
    if chunked and ("content-length" in headers or version == "1.0"):
        raise HeadRefused(400, "Transfer-Encoding belongs to HTTP/1.1, and goes without a Content-Length")
    if method == "CONNECT":
        raise HeadRefused(501, "this is no proxy")
    has_body = chunked or headers.get("content-length", "0") != "0"
    upgrades = "upgrade" in headers and method == "GET" and not has_body and _to_web_socket(headers)
    if not upgrades:
        headers.pop("upgrade", None)  # a request for another protocol is served by this one
    closes = "close" in _tokens(headers)
    lines = [b" ".join([request.method, request.target, b"HTTP/" + request.http_version])]
    lines += [b": ".join(field) for field in fields if field[0] not in _OF_THE_CONNECTION]
    if upgrades:
        lines += [b"connection: upgrade", b"upgrade: websocket"]
    elif closes:
        lines.append(b"connection: close")
    path, _, query = request.target.decode("latin-1").partition("?")
    length = None if chunked else int(headers.get("content-length", "0"))
    plain = b"\r\n".join([*lines, b"", b""])
    return Head(plain, method, path, query, HeaderFields(headers), length, version, strict=False)


def _request_of(raw: bytes) -> h11.Request:
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
    try:
        parser.receive_data(raw)
        request = parser.next_event()
    except h11.RemoteProtocolError as error:
        if error.error_status_hint == 501:
            raise HeadRefused(501, "of transfer codings only chunked is served") from None
        raise HeadRefused(error.error_status_hint, "the head of the request is malformed") from None
    if not isinstance(request, h11.Request):
        raise HeadRefused(400, "the head of the request is malformed")
    return request


def _tokens(headers: Mapping[str, str]) -> set[str]:
    return {token.strip() for token in headers.get("connection", "").lower().split(",")}


def _to_web_socket(headers: Mapping[str, str]) -> bool:
    return headers["upgrade"].lower() == "websocket" and "upgrade" in _tokens(headers)


def _check_web_socket(headers: HeaderFields) -> None:
    """Check a handshake against RFC 6455, section 4.2.1.

    Raises:
        HeadRefused: It is of another version, or without a proper key.
    """
    if headers.get("sec-websocket-version") != WEB_SOCKET_VERSION:
        wanted = {"Sec-WebSocket-Version": WEB_SOCKET_VERSION, "Upgrade": "websocket"}
        raise HeadRefused(426, f"WebSockets are served in version {WEB_SOCKET_VERSION}", wanted)
    if not _KEY.fullmatch(headers.get("sec-websocket-key", "")):
        raise HeadRefused(400, "Sec-WebSocket-Key must be 16 bytes in base64")
