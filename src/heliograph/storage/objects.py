"""Artifacts in object storage, by ``obstore``: S3 and compatible ones, Google's and Azure's.

A bucket has no folders, so an object's name is the whole path: ``{prefix}/{workflow}/{run}/{key}``. The
storage itself promises that an object is there whole or not at all. The library's calls block in a worker
thread each, without the GIL, and give up after some seconds, so an outage is an error and not a call that
hangs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from heliograph.model.channels import is_name
from heliograph.model.errors import ArtifactNotFound, Invalid, SettingsError, Unavailable
from heliograph.storage.artifacts import KEY_HELP, THREADS, is_key
from heliograph.storage.protocols import ArtifactInfo, RunName

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ObjectStore

TIMEOUT = "10s"
RETRIES = 3
RETRY_FOR = timedelta(seconds=10)
LISTED = 1000
"""The number of names that a storage lists in one answer."""
MAX_LISTS = 10
"""The number of such answers that are asked for to find runs."""
T = TypeVar("T")


def open_bucket(url: str) -> ObjectStore:
    """Make the client of a bucket; it connects when it is first used.

    Args:
        url: Such as ``s3://bucket/prefix``. Endpoint and credentials come from the environment, by the names
            that each storage's own tools use (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, …).

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

    async def list(
        self, workflow_id: str, run_id: str, after: str | None = None, limit: int | None = None
    ) -> Sequence[ArtifactInfo]:
        """List a run's artifacts, or some of them, by key."""
        place = _place(workflow_id, run_id)

        def ask() -> Sequence[ArtifactInfo]:
            # A few objects with names that are not keys may be among them.
            listed = (info for page in self._pages(place, place + (after or "")) for info in page)
            return list(islice((info for info in listed if is_key(info.key)), limit))

        return await self._call(ask)

    async def find(self, workflow_id: str, run_id: str, keys: Sequence[str]) -> Mapping[str, ArtifactInfo]:
        """Return the artifacts among ``keys`` that exist, by key.

        A storage lists names in order, a thousand at a time, from any name on. So each request begins at the
        next wanted key and brings those behind it, too: one request if the run has no artifacts, and never
        more than a list of them all would take.
        """
        place = _place(workflow_id, run_id)
        wanted = sorted(filter(is_key, keys))

        def ask() -> Mapping[str, ArtifactInfo]:
            found: dict[str, ArtifactInfo] = {}
            names, position = set(wanted), 0
            while position < len(wanted):
                before = place + wanted[position][:-1]
                page = next(self._pages(place, before), None)
                if page is None:
                    break
                found.update((info.key, info) for info in page if info.key in names)
                position = bisect_right(wanted, page[-1].key)
            return found

        return await self._call(ask)

    def _pages(self, place: str, behind: str) -> Iterator[Sequence[ArtifactInfo]]:
        """Yield the objects of ``place`` after the name ``behind``, one page per request."""
        import obstore

        for page in obstore.list(self._store, place, offset=behind, chunk_size=LISTED):
            yield [_info(meta) for meta in page]

    async def read(
        self, workflow_id: str, run_id: str, key: str, first: int = 0, last: int | None = None
    ) -> tuple[ArtifactInfo, bytes]:
        """Read an artifact, or some of its bytes, by one request if it has any of them."""
        import obstore
        from obstore.exceptions import BaseError

        place = _place(workflow_id, run_id, key)

        def ask() -> tuple[ArtifactInfo, bytes]:
            if last is not None and last < first:
                return _info(obstore.head(self._store, place)), b""
            options: GetOptions = {}
            if last is not None:
                options = {"range": (first, last + 1)}
            elif first:
                options = {"range": {"offset": first}}
            try:
                found = obstore.get(self._store, place, options=options)
            except FileNotFoundError:
                raise
            except BaseError:  # the object may end before the range begins
                known = _info(obstore.head(self._store, place))
                if first < known.size:
                    raise
                return known, b""
            return _info(found.meta), bytes(found.bytes())

        return await self._call(ask)

    async def write(self, workflow_id: str, run_id: str, key: str, data: bytes) -> ArtifactInfo:
        """Write an artifact, whole or not at all; return when the storage has it."""
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
            obstore.head(self._store, place)  # a storage's delete does not tell whether the object existed
            obstore.delete(self._store, place)

        await self._call(ask)

    async def delete_old(self, workflow_id: str, run_id: str, before: datetime) -> bool:
        """Remove all artifacts of a run, unless one was written at ``before`` or later."""
        import obstore

        place = _place(workflow_id, run_id)

        def ask() -> bool:
            found = [meta for page in obstore.list(self._store, place) for meta in page]
            if not found or any(meta["last_modified"] >= before for meta in found):
                return False
            obstore.delete(self._store, [meta["path"] for meta in found])
            return True

        return await self._call(ask)

    async def runs(self, after: RunName | None, limit: int) -> Sequence[RunName]:
        """Return some of the runs that have artifacts, in the order of ``workflow/run``."""
        import obstore

        # "0" follows "/", so "w/r0" comes right after every name that begins with "w/r/".
        behind = None if after is None else f"{after.workflow_id}/{after.run_id}0"

        def ask() -> Sequence[RunName]:
            found: dict[RunName, None] = {}
            pages = obstore.list(self._store, offset=behind, chunk_size=LISTED)
            for number, page in enumerate(pages, 1):
                for meta in page:
                    workflow_id, _, rest = meta["path"].partition("/")
                    name = RunName(workflow_id, rest.partition("/")[0])
                    if all(map(is_name, name)):
                        found[name] = None
                    if len(found) == limit:
                        return list(found)
                if found and number >= MAX_LISTS:
                    break
            return list(found)

        return await self._call(ask)

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
