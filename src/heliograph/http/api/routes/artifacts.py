"""Artifacts: the files that runs leave behind, stored whole and served whole or by range."""

from __future__ import annotations

import base64
import hashlib
import posixpath
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import attrs
import trio
from werkzeug.exceptions import RequestedRangeNotSatisfiable, RequestTimeout
from werkzeug.http import parse_etags, parse_range_header

from heliograph.config import Settings
from heliograph.http.api import samples
from heliograph.http.api.endpoint import Described, Endpoint, Part
from heliograph.http.api.routes.workflows import OfWorkflow, of_workflow
from heliograph.http.api.services import Services
from heliograph.http.rules.answer import Answer
from heliograph.http.rules.asked import Asked
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.parameters import Text, header, path
from heliograph.http.rules.schema import Components, says
from heliograph.model.errors import ArtifactNotFound, Invalid, TooLarge, Unavailable
from heliograph.storage.protocols import ArtifactInfo

BINARY = "application/octet-stream"
KINDS = {
    ".json": "application/json",
    ".csv": "text/csv; charset=utf-8",
    **dict.fromkeys((".txt", ".md", ".log"), "text/plain; charset=utf-8"),
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".pdf": "application/pdf",
}
"""By the end of a key: the content type. All others are served as bytes, since an uploaded page must not run
in our origin."""


@attrs.frozen
class OfRunsArtifacts(OfWorkflow):
    """The run whose artifacts are listed."""

    run_id: str = path(Text(), "The run's id.")


@attrs.frozen
class OfArtifact(OfRunsArtifacts):
    """The key of an artifact, and its run."""

    key: str = path(Text(), "The artifact's name within the run.")


@attrs.frozen
class Fetching(OfArtifact):
    """A range of an artifact, and the version that the client has."""

    range_: str | None = header("Range", Text(), "One range of bytes, such as bytes=0-99.")
    if_range: str | None = header(
        "If-Range", Text(), "The range counts only for this ETag; else the answer is whole."
    )
    if_none_match: str | None = header("If-None-Match", Text(), "The ETags that the client has.")


@attrs.frozen
class Storing(OfArtifact):
    """The key under which an artifact is kept."""

    digest: str | None = header(
        "Content-Digest", Text(), "sha-256=:…: of the body (RFC 9530); a body with another one is refused."
    )


@attrs.frozen
class ArtifactView:
    """An artifact, without its bytes."""

    key: str
    size: Annotated[int, says("The size in bytes.", minimum=0)]
    content_type: str
    modified: datetime
    etag: str


@attrs.frozen
class ArtifactList:
    """The artifacts of a run."""

    artifacts: Sequence[ArtifactView]
    total: Annotated[int, says(minimum=0)]


@attrs.frozen
class Stored:
    """An artifact that was kept."""

    key: str
    size: Annotated[int, says("The size in bytes.", minimum=0)]
    content_type: str
    modified: datetime
    etag: str
    sha256: Annotated[str, says("The SHA-256 of its bytes, in hex.")]


class Bytes:
    """A body of any bytes, up to ``artifacts.max_bytes``."""

    def reader(self, asked: Asked, settings: Settings) -> _BytesReader:
        """Make the reader of a body."""
        return _BytesReader(min(settings.artifacts.max_bytes, settings.server.max_request_bytes))

    def describe(self, settings: Settings, components: Components) -> Mapping[str, Any]:
        """Describe it for OpenAPI."""
        return {"required": True, "content": {BINARY: {"schema": {}}}}


class _BytesReader:
    def __init__(self, most: int) -> None:
        self._most = most
        self._read = bytearray()

    def feed(self, data: bytes) -> None:
        if len(self._read) + len(data) > self._most:
            raise TooLarge(f"an artifact may have at most {self._most} bytes")
        self._read += data

    def end(self) -> bytes:
        return bytes(self._read)


async def list_artifacts(services: Services, who: Identity, asked: OfRunsArtifacts) -> ArtifactList:
    """List the artifacts of a run by key; a run without artifacts has an empty list."""
    found = await services.artifacts.list(asked.workflow_id, asked.run_id)
    return ArtifactList([_view(info) for info in found], len(found))


async def get_artifact(services: Services, who: Identity, asked: Fetching) -> Answer:
    """Return an artifact, or a range of its bytes."""
    place = asked.workflow_id, asked.run_id, asked.key
    known, _ = await services.artifacts.read(*place, 0, -1)
    headers = {
        "ETag": f'"{known.etag}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-cache",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "X-Content-Type-Options": "nosniff",
    }
    if parse_etags(asked.if_none_match).contains_weak(known.etag):
        return Answer(304, b"", kind_of(known.key), headers)
    part = _part(asked, known)
    first, last = (0, known.size - 1) if part is None else part
    info, data = await services.artifacts.read(*place, first, last)
    if info.etag != known.etag:
        raise Unavailable(f"{known.key} was written just now; ask again")
    if part is None:
        return Answer(200, data, kind_of(known.key), headers)
    headers["Content-Range"] = f"bytes {first}-{last}/{known.size}"
    return Answer(206, data, kind_of(known.key), headers)


async def put_artifact(services: Services, who: Identity, asked: Storing, data: bytes) -> Stored:
    """Keep an artifact whole, in place of an older one; answered when it is durable."""
    digest = (await trio.to_thread.run_sync(hashlib.sha256, data)).digest()
    if asked.digest is not None and asked.digest != f"sha-256=:{base64.b64encode(digest).decode()}:":
        raise Invalid.field("Content-Digest", "is not the body's; write sha-256=:<base64>:")
    info = await services.artifacts.write(asked.workflow_id, asked.run_id, asked.key, data)
    return Stored(info.key, info.size, kind_of(info.key), info.modified, info.etag, digest.hex())


async def delete_artifact(services: Services, who: Identity, asked: OfArtifact) -> Answer:
    """Remove an artifact."""
    await services.artifacts.delete(asked.workflow_id, asked.run_id, asked.key)
    return Answer(204, b"")


def kind_of(key: str) -> str:
    """Return the content type of an artifact, by the end of its key."""
    return KINDS.get(posixpath.splitext(key)[1].lower(), BINARY)


def _view(info: ArtifactInfo) -> ArtifactView:
    return ArtifactView(info.key, info.size, kind_of(info.key), info.modified, info.etag)


def _part(asked: Fetching, known: ArtifactInfo) -> tuple[int, int] | None:
    """Return the first and the last byte of the requested range; ``None`` for all bytes.

    Raises:
        RequestedRangeNotSatisfiable: The artifact has none of these bytes.
    """
    wanted = parse_range_header(asked.range_)
    if wanted is None or wanted.units != "bytes" or len(wanted.ranges) != 1:
        return None
    if asked.if_range is not None and not parse_etags(asked.if_range).contains(known.etag):
        return None
    found = wanted.range_for_length(known.size)
    if found is None:
        raise RequestedRangeNotSatisfiable(known.size)
    first, end = found
    return first, end - 1


_INFO = ArtifactInfo("collect.json", 27, samples.NOON, "18c2d0f1a2b3c400-2a1f-1b")
_RUN = "/api/v1/workflows/{workflow_id}/runs/{run_id}/artifacts"
_BYTES: Mapping[str, Part] = {"*/*": {"schema": {}}}  # the end of the key decides; see kind_of

ENDPOINTS = [
    Endpoint(
        "GET",
        _RUN,
        list_artifacts,
        "workflows",
        Described("The artifacts, by key."),
        channels=of_workflow,
        refuses=(ArtifactNotFound, Invalid, Unavailable),
        example=ArtifactList([_view(_INFO)], 1),
    ),
    Endpoint(
        "GET",
        _RUN + "/{key}",
        get_artifact,
        "workflows",
        Described(
            "The whole artifact; its content type follows from the end of its key.",
            media=_BYTES,
            headers=["ETag"],
            others={
                "206": {"description": "The range.", "headers": ["ETag"], "content": _BYTES},
                "304": {"description": "The client has this version already.", "headers": ["ETag"]},
            },
        ),
        channels=of_workflow,
        refuses=(ArtifactNotFound, Invalid, RequestedRangeNotSatisfiable, Unavailable),
    ),
    Endpoint(
        "PUT",
        _RUN + "/{key}",
        put_artifact,
        "workflows",
        Described("The artifact is kept."),
        scope="publish",
        channels=of_workflow,
        body=Bytes(),
        status=201,
        refuses=(ArtifactNotFound, RequestTimeout, TooLarge, Invalid, Unavailable),
        example=Stored(
            _INFO.key,
            _INFO.size,
            kind_of(_INFO.key),
            _INFO.modified,
            _INFO.etag,
            hashlib.sha256(b"").hexdigest(),
        ),
    ),
    Endpoint(
        "DELETE",
        _RUN + "/{key}",
        delete_artifact,
        "workflows",
        Described("The artifact is removed."),
        scope="publish",
        channels=of_workflow,
        status=204,
        refuses=(ArtifactNotFound, Invalid, Unavailable),
    ),
]
