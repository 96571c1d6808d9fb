"""A small server that speaks as S3 does, with one bucket in memory, for tests of artifacts in object storage.

It knows what the service's client asks for: objects put, given whole or in part, described, listed by a
prefix from a name on, and deleted one by one or together. It checks the signature (version 4) of each request
and refuses as S3 does. Servers that stand for all of Amazon's services bring many packages with them, and
check no signature.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import attrs

BUCKET = "artifacts"
REGION = "here"
KEY_ID, SECRET = "tester", "a secret of tests"
PAGE = 1000
"""The most names that one answer lists, as with S3."""


@attrs.frozen
class Stored:
    """An object."""

    data: bytes
    modified: datetime

    @property
    def etag(self) -> str:
        """Another one for other bytes."""
        return f'"{hashlib.sha256(self.data).hexdigest()[:32]}"'


class Bucket(ThreadingHTTPServer):
    """The server.

    Args:
        port: Where it listens; 0: anywhere.
    """

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.objects: dict[str, Stored] = {}
        self.asked: Counter[str] = Counter()
        """Requests by method, those for a list as ``LIST``."""
        self._connections: set[socket.socket] = set()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take a connection, and remember it."""
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that has ended."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def stop(self) -> None:
        """Stop listening, and cut all connections."""
        self.shutdown()
        self.server_close()
        for connection in tuple(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What clients find it by, and are let in with."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }


@contextmanager
def serving(bucket: Bucket) -> Iterator[Bucket]:
    """Serve until the end of the block."""
    thread = threading.Thread(target=bucket.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield bucket
    finally:
        bucket.stop()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Bucket
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def handle_one_request(self) -> None:
        """Handle a request; a client may go away at any time."""
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do_GET(self) -> None:
        """Give an object or a list."""
        self._serve()

    do_HEAD = do_PUT = do_DELETE = do_POST = do_GET  # noqa: N815

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        refusal = _refusal(self.command, self.path, dict(self.headers.items()), body)
        self.server.asked["LIST" if "list-type" in query else self.command] += 1
        if refusal is not None:
            self._fail(403, *refusal)
        elif bucket != BUCKET:
            self._fail(404, "NoSuchBucket", "The specified bucket does not exist")
        elif "list-type" in query:
            self._list(query)
        elif self.command == "POST":
            self._delete_some(body)
        elif self.command == "PUT":
            self.server.objects[key] = stored = Stored(body, datetime.now(UTC))
            self._answer(200, b"", {"ETag": stored.etag})
        elif self.command == "DELETE":
            self.server.objects.pop(key, None)
            self._answer(204)
        else:
            self._give(key)

    def _give(self, key: str) -> None:
        stored = self.server.objects.get(key)
        if stored is None:
            self._fail(404, "NoSuchKey", "The specified key does not exist.")
            return
        headers = {"ETag": stored.etag, "Last-Modified": format_datetime(stored.modified, usegmt=True)}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            self._answer(200, stored.data, headers)
            return
        size = len(stored.data)
        first, end = int(asked[1]), min(int(asked[2] or size) + 1, size)
        if first >= size:
            self._fail(416, "InvalidRange", "The requested range is not satisfiable")
            return
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
        self._answer(206, stored.data[first:end], headers)

    def _list(self, query: dict[str, str]) -> None:
        behind = max(query.get("start-after", ""), query.get("continuation-token", ""))
        prefix = query.get("prefix", "")
        names = [name for name in sorted(self.server.objects) if name.startswith(prefix) and name > behind]
        page, more = names[:PAGE], len(names) > PAGE
        contents = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(stored.data)}</Size>"
            f"<LastModified>{stored.modified:%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
            f"<ETag>{escape(stored.etag)}</ETag></Contents>"
            for name in page
            for stored in (self.server.objects[name],)
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        self._answer(
            200,
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{contents}"
            "</ListBucketResult>".encode(),
            {"Content-Type": "application/xml"},
        )

    def _delete_some(self, body: bytes) -> None:
        namespace = "{http://s3.amazonaws.com/doc/2006-03-01/}"
        tree = ElementTree.fromstring(body)
        keys = [found.text or "" for found in tree.iter() if found.tag in {"Key", f"{namespace}Key"}]
        for key in keys:
            self.server.objects.pop(key, None)
        deleted = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    def _fail(self, status: int, code: str, words: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{words}</Message></Error>".encode())

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _refusal(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[str, str] | None:
    """Return the code and the words by which S3 refuses a request, ``None`` if it lets it in."""
    said = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    signed = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, "
        r"SignedHeaders=([^,]+), Signature=([0-9a-f]{64})",
        said.get("authorization", ""),
    )
    if signed is None:
        return "AccessDenied", "Access Denied"
    key_id, day, region, names, signature = signed.groups()
    if key_id != KEY_ID:
        return "InvalidAccessKeyId", "The access key Id you provided does not exist in our records."
    parts = urlsplit(path)
    pairs = sorted(parse_qsl(parts.query, keep_blank_values=True))
    digest = said["x-amz-content-sha256"]
    canonical = "\n".join(
        [
            method,
            parts.path,
            "&".join(f"{quote(name, '-_.~')}={quote(value, '-_.~')}" for name, value in pairs),
            *(f"{name}:{said[name]}" for name in names.split(";")),
            "",
            names,
            digest,
        ]
    )
    scope = f"{day}/{region}/s3/aws4_request"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{SECRET}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    expected = hmac.new(
        key, f"AWS4-HMAC-SHA256\n{said['x-amz-date']}\n{scope}\n{hashed}".encode(), "sha256"
    ).hexdigest()
    if not hmac.compare_digest(expected, signature):
        return "SignatureDoesNotMatch", "The request signature we calculated does not match."
    if digest != "UNSIGNED-PAYLOAD" and digest != hashlib.sha256(body).hexdigest():
        return "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match."
    return None
