"""Bounds of what a key has under way at once: no key takes all of the memory, or all readers of the database.

A question waits for a reader of the database, and all questions wait in one line: one key's thousand would
stand before everybody else's. An answer that is written bit by bit (a full log) holds a page in memory for as
long as its client takes to read it. Both are counted by key; one too many is refused at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from weakref import finalize

from heliograph.model.errors import TooMany


class UnderWay:
    """The number of things that each key has under way.

    Args:
        kind: Their name, in the refusal.
        most: The most that one key may have.

    Attributes:
        refused: The number of those that were refused.
    """

    def __init__(self, kind: str, most: int) -> None:
        self._kind = kind
        self._most = most
        self._counts: Counter[str] = Counter()
        self.refused = 0

    @property
    def total(self) -> int:
        """The number of things under way, of all keys."""
        return self._counts.total()

    @contextmanager
    def hold(self, key: str) -> Iterator[None]:
        """Count one thing while it is done.

        Raises:
            TooMany: The key has as many as it may.
        """
        self._begin(key)
        try:
            yield
        finally:
            self._end(key)

    def written(self, key: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Count an answer until it is written, or let go unwritten.

        Raises:
            TooMany: The key has as many as it may.
        """
        self._begin(key)
        answer = _passed_on(chunks)
        finalize(answer, self._end, key)  # also where nobody has begun to read it, as for a client that left
        return answer

    def _begin(self, key: str) -> None:
        if self._counts[key] >= self._most:
            self.refused += 1
            raise TooMany(f"a key may have {self._most} {self._kind} under way at once", 1.0)
        self._counts[key] += 1

    def _end(self, key: str) -> None:
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._counts[key]


async def _passed_on(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async with aclosing(chunks):  # type: ignore[type-var]  # all of them are generators
        async for chunk in chunks:
            yield chunk
            del chunk  # while the next one is waited for, the client has this one
