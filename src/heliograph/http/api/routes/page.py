"""The dashboard page and its static files, read once and served from memory."""

from __future__ import annotations

import hashlib
import mimetypes
from functools import cache
from importlib.resources import files

import attrs

from heliograph.http.api.endpoint import Endpoint
from heliograph.http.api.services import Services
from heliograph.http.rules.answer import Answer
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.parameters import Text, header, path
from heliograph.model.errors import NotFound

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@attrs.frozen
class Cached:
    """What a client has already."""

    tag: str | None = header("If-None-Match", Text(), "The ETag of what the client has.")


@attrs.frozen
class File(Cached):
    """Which of the page's files."""

    name: str = path(Text(), "The file's name.")


@attrs.frozen
class Asset:
    """A static file, or what is as good as one: the same as long as the process lives."""

    body: bytes
    content_type: str
    etag: str

    @classmethod
    def of(cls, body: bytes, content_type: str) -> Asset:
        """Make one with the tag of its content."""
        return cls(body, content_type, f'"{hashlib.sha256(body).hexdigest()[:16]}"')

    def answer(self, tag: str | None) -> Answer:
        """Answer with the file, unless the client has it by this tag."""
        headers = {
            "ETag": self.etag,
            "Cache-Control": "no-cache",
            "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        }
        if tag == self.etag:
            return Answer(304, b"", self.content_type, headers)
        return Answer(200, self.body, self.content_type, headers)


@cache
def assets() -> dict[str, Asset]:
    """Read every static file of the page."""
    found = {}
    for file in (files("heliograph.web") / "static").iterdir():
        body = file.read_bytes()
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        if kind.startswith("text/"):
            kind += "; charset=utf-8"
        found[file.name] = Asset.of(body, kind)
    return found


async def index(services: Services, who: Identity, asked: Cached) -> Answer:
    """Serve the page."""
    return assets()["index.html"].answer(asked.tag)


async def static_file(services: Services, who: Identity, asked: File) -> Answer:
    """Serve one of the page's files."""
    asset = assets().get(asked.name)
    if asset is None:
        raise NotFound(f"there is no file {asked.name[:100]!r}")
    return asset.answer(asked.tag)


ENDPOINTS = [
    Endpoint("GET", "/", index, scope=None),
    Endpoint("GET", "/static/{name}", static_file, scope=None),
]
