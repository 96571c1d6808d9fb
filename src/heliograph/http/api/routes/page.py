"""The dashboard page and its static files, read once and served from memory."""

from __future__ import annotations

import hashlib
import mimetypes
from functools import cache
from importlib.resources import files

import attrs
from quart import Blueprint, Response, request

from heliograph.model.errors import NotFound

blueprint = Blueprint("page", __name__)

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


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


@blueprint.get("/")
async def index() -> Response:
    """Serve the page."""
    return _serve("index.html")


@blueprint.get("/static/<name>")
async def static_file(name: str) -> Response:
    """Serve one of the page's files."""
    return _serve(name)


def _serve(name: str) -> Response:
    asset = assets().get(name)
    if asset is None:
        raise NotFound(f"there is no file {name[:100]!r}")
    return serve_asset(asset)


def serve_asset(asset: Asset) -> Response:
    """Serve a file, unless the client has it already."""
    headers = {
        "ETag": asset.etag,
        "Cache-Control": "no-cache",
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    }
    if request.headers.get("If-None-Match") == asset.etag:
        return Response(b"", 304, headers)
    return Response(asset.body, headers=headers, content_type=asset.content_type)
