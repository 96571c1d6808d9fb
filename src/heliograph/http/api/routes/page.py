"""The dashboard page and its static files, read once and served from memory.

Every file of the page is below one folder that is named by a hash of all files, ``/static/{version}/…``, and
may be cached for ever; only the page itself, which names the version, is requested again. So a module imports
others by plain relative paths and never gets one of another version. The same files are also below
``/static/…`` without a version, for people. No address is absolute, so the page works below any path of a
proxy.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import posixpath
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

import attrs

from heliograph.http.api.endpoint import Endpoint
from heliograph.http.api.services import Services
from heliograph.http.rules.answer import Answer
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.parameters import Coding, Text, header, path
from heliograph.model.errors import NotFound

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FOR_EVER = "public, max-age=31536000, immutable"
FIRST_MODULES = ("shell.js", "views/fleet.js")
"""The modules of every visit; they and all their imports are loaded at once, not one after the other."""

SMALL_BYTES = 400
"""Compressing a smaller file saves nothing."""

_IMPORT = re.compile(rb'^(?:import|export)\b[^"\n]*"(\.[^"\n]+)";', re.MULTILINE)
_KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}


@attrs.frozen
class Cached:
    """The version that a client has, and the encodings that it takes."""

    tag: str | None = header("If-None-Match", Text(), "The ETag of what the client has.")
    takes_gzip: bool = header("Accept-Encoding", Coding("gzip"), "Whether gzip is taken.", default=False)


@attrs.frozen
class File(Cached):
    """The path of one of the page's files."""

    name: str = path(Text(), "The file's path.")


@attrs.frozen
class Asset:
    """A static file, or other content that stays the same while the process lives.

    Args:
        body: The content.
        content_type: The media type of the content.
        etag: The entity tag of the content.
        packed: The content compressed with gzip; ``None`` if that saves nothing.
    """

    body: bytes
    content_type: str
    etag: str
    packed: bytes | None

    @classmethod
    def of(cls, body: bytes, content_type: str) -> Asset:
        """Make an asset with the entity tag of its content."""
        packed = gzip.compress(body, mtime=0) if len(body) >= SMALL_BYTES else None
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        return cls(body, content_type, etag, packed if packed and len(packed) < len(body) else None)

    def answer(self, asked: Cached, keep: str = "no-cache") -> Answer:
        """Answer with the file, unless the client has it already.

        Args:
            asked: The version that the client has, and the encodings that it takes.
            keep: The header ``Cache-Control``.
        """
        packed = self.packed if asked.takes_gzip else None
        etag = self.etag if packed is None else f'{self.etag[:-1]}-gzip"'
        headers = {
            "ETag": etag,
            "Cache-Control": keep,
            "Vary": "Accept-Encoding",
            "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        }
        if asked.tag == etag:
            return Answer(304, b"", self.content_type, headers)
        if packed is not None:
            headers["Content-Encoding"] = "gzip"
        return Answer(200, self.body if packed is None else packed, self.content_type, headers)


@attrs.frozen
class Site:
    """All files of the page.

    Args:
        version: A hash of the content of all files.
        assets: The files by their path below ``static/``.
        index: The page itself.
    """

    version: str
    assets: dict[str, Asset]
    index: Asset


@cache
def site() -> Site:
    """Read every static file of the page."""
    found = dict(_walk(files("heliograph.web") / "static", ""))
    whole = hashlib.sha256()
    for name in sorted(found):
        whole.update(b"%s %d\n" % (name.encode(), len(found[name])))
        whole.update(found[name])
    version = whole.hexdigest()[:16]
    assets = {name: Asset.of(body, _kind(name)) for name, body in found.items()}
    return Site(version, assets, Asset.of(_index(found, version), _kind("index.html")))


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry.read_bytes()


def _kind(name: str) -> str:
    suffix = posixpath.splitext(name)[1]
    kind = _KINDS.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def _index(found: dict[str, bytes], version: str) -> bytes:
    """Make the page, with the version in its addresses and preloads for its first modules' imports."""
    modules: dict[str, None] = {}
    waiting = list(FIRST_MODULES)
    while waiting:
        name = waiting.pop(0)
        if name not in modules:
            modules[name] = None
            here = posixpath.dirname(name)
            waiting += [
                posixpath.normpath(posixpath.join(here, path.decode()))
                for path in _IMPORT.findall(found[name])
            ]
    ahead = "\n  ".join(f'<link rel="modulepreload" href="static/{name}">' for name in modules)
    text = found["index.html"].decode().replace("<!-- modules -->", ahead)
    return text.replace('="static/', f'="static/{version}/').encode()


async def index(services: Services, who: Identity, asked: Cached) -> Answer:
    """Serve the page."""
    return site().index.answer(asked)


async def static_file(services: Services, who: Identity, asked: File) -> Answer:
    """Serve one of the page's files."""
    version, _, below = asked.name.partition("/")
    named = version == site().version
    asset = site().assets.get(below if named else asked.name)
    if asset is None:
        raise NotFound(f"there is no file {asked.name[:100]!r}")
    return asset.answer(asked, FOR_EVER if named else "no-cache")


ENDPOINTS = [
    Endpoint("GET", "/", index, scope=None),
    Endpoint("GET", "/static/{name:path}", static_file, scope=None),
]
