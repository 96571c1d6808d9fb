"""Artifacts in object storage, by ``obstore``: S3 and what speaks like it, Google's and Azure's.

A bucket has no folders, so a key is the whole way: ``{prefix}/{workflow}/{run}/{key}``. An object is there
whole or not at all, by the storage's own promise. The library's calls block without holding Python, each in a
worker thread, and give up after some seconds: an outage is an answer, and no call that hangs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from heliograph.model.channels import is_name
from heliograph.model.errors import ArtifactNotFound, Invalid, SettingsError, Unavailable
from heliograph.storage.artifacts import KEY_HELP, THREADS, is_key
from heliograph.storage.protocols import ArtifactInfo

if TYPE_CHECKING:
    from obstore.store import ObjectStore

TIMEOUT = "10s"
RETRIES = 3
RETRY_FOR = timedelta(seconds=10)
T = TypeVar("T")


def open_bucket(url: str) -> ObjectStore:
    """Make the client of a bucket; it connects when it is first used.

    Args:
        url: Such as ``s3://bucket/prefix``. Where it is and who asks is taken from the environment, by the
            names that each storage's own tools use (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, …).

    Raises:
        SettingsError: The extra is not installed, or the URL names no storage that is known.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError:
        raise SettingsError(["artifacts.url: needs the extra: pip install 'heliograph[objects]'"]) from None
    try:
        return from_url(
            url,
            client_options={"timeout": TIMEOUT, "allow_http": True},
            retry_config={"max_retries": RETRIES, "retry_timeout": RETRY_FOR},
        )
    except BaseError as error:
        raise SettingsError([f"artifacts.url: {_first_line(error)}"]) from None


class ObjectArtifacts:
    """Artifacts in a bucket; see ``protocols.Artifacts``.

    Args:
        store: The bucket's client.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._limiter = trio.CapacityLimiter(THREADS)

    async def list(self, workflow_id: str, run_id: str) -> Sequence[ArtifactInfo]:
        """List a run's artifacts, by key."""
        import obstore

        prefix = _place(workflow_id, run_id)

        def ask() -> Sequence[ArtifactInfo]:
            found = [_info(meta) for page in obstore.list(self._store, prefix) for meta in page]
            return sorted((info for info in found if is_key(info.key)), key=lambda info: info.key)

        return await self._call(ask)

    async def read(
        self, workflow_id: str, run_id: str, key: str, first: int = 0, last: int | None = None
    ) -> tuple[ArtifactInfo, bytes]:
        """Read an artifact, or some of its bytes."""
        import obstore

        place = _place(workflow_id, run_id, key)

        def ask() -> tuple[ArtifactInfo, bytes]:
            known = _info(obstore.head(self._store, place))
            end = known.size if last is None else min(last + 1, known.size)
            if first >= end:
                return known, b""
            found = obstore.get(self._store, place, options={"range": (first, end)})
            return _info(found.meta), bytes(found.bytes())

        return await self._call(ask)

    async def write(self, workflow_id: str, run_id: str, key: str, data: bytes) -> ArtifactInfo:
        """Keep an artifact whole; return when the storage has it."""
        import obstore

        place = _place(workflow_id, run_id, key)

        def ask() -> ArtifactInfo:
            obstore.put(self._store, place, data)
            return _info(obstore.head(self._store, place))

        return await self._call(ask)

    async def delete(self, workflow_id: str, run_id: str, key: str) -> None:
        """Remove an artifact."""
        import obstore

        place = _place(workflow_id, run_id, key)

        def ask() -> None:
            obstore.head(self._store, place)  # storages don't say whether there was anything to delete
            obstore.delete(self._store, place)

        await self._call(ask)

    async def delete_all(self, workflow_id: str, run_id: str) -> None:
        """Remove all that a run has left behind, if anything."""
        import obstore

        prefix = _place(workflow_id, run_id)

        def ask() -> None:
            for page in obstore.list(self._store, prefix):
                obstore.delete(self._store, [meta["path"] for meta in page])

        await self._call(ask)

    async def _call(self, ask: Callable[[], T]) -> T:
        from obstore.exceptions import BaseError

        try:
            return await trio.to_thread.run_sync(ask, limiter=self._limiter, abandon_on_cancel=True)
        except FileNotFoundError:
            raise ArtifactNotFound("the run has no artifact of that key") from None
        except BaseError as error:
            raise Unavailable(f"artifacts can't be reached: {_first_line(error)}") from error


def _place(workflow_id: str, run_id: str, key: str | None = None) -> str:
    if not (is_name(workflow_id) and is_name(run_id)):
        raise ArtifactNotFound("there are no artifacts of such a run")
    if key is None:
        return f"{workflow_id}/{run_id}/"
    if not is_key(key):
        raise Invalid.field("key", f"must be {KEY_HELP}")
    return f"{workflow_id}/{run_id}/{key}"


def _info(meta: Any) -> ArtifactInfo:
    key = meta["path"].rpartition("/")[2]
    return ArtifactInfo(key, meta["size"], meta["last_modified"], (meta["e_tag"] or "").strip('"'))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
