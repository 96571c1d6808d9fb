"""Limits of a key's concurrent questions and long answers, so that no key takes all memory or readers.

All questions wait in one queue for a connection to the database, so a thousand of one key would delay those
of all others. A long answer (a full log) holds a page in memory while its client reads it. Both are counted
by key, and those over the limit are refused at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from weakref import finalize

from heliograph.model.errors import TooMany


class UnderWay:
    """Counts one kind of work under way by key.

    Args:
        kind: The name of the work, for refusals.
        most: The most that one key may have under way.

    Attributes:
        refused: The number of refusals.
    """

    def __init__(self, kind: str, most: int) -> None:
        self._kind = kind
        self._most = most
        self._counts: Counter[str] = Counter()
        self.refused = 0

    @property
    def total(self) -> int:
        """The number under way, of all keys together."""
        return self._counts.total()

    @contextmanager
    def hold(self, key: str) -> Iterator[None]:
        """Count one in the body of the ``with`` statement.

        Raises:
            TooMany: The key has as many as it may.
        """
        self._begin(key)
        try:
            yield
        finally:
            self._end(key)

    def written(self, key: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Count an answer until it is written or dropped.

        Raises:
            TooMany: The key has as many as it may.
        """
        self._begin(key)
        finalize(chunks, self._end, key)  # even if it was never iterated, as when the client left
        return chunks

    def _begin(self, key: str) -> None:
        if self._counts[key] >= self._most:
            self.refused += 1
            raise TooMany(f"a key may have {self._most} {self._kind} under way at once", 1.0)
        self._counts[key] += 1

    def _end(self, key: str) -> None:
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._counts[key]
