"""A bounded cache of whole series, so that paging through a long history reads it once."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cachetools import TTLCache

from runstream.query.points.parts import Coverage
from runstream.query.points.series import Series


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A whole series, and the parts of the table that it was read from."""

    series: Series
    seen: Coverage


class SnapshotCache:
    """Snapshots by (run id, key), the least recently used dropped first. Thread-safe; never blocks for long.

    ``max_bytes`` bounds the arrays held; an entry is forgotten ``ttl_s`` after it was put, as nobody pages by then.
    """

    def __init__(
        self, max_bytes: int, ttl_s: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lock = threading.Lock()
        self._entries: TTLCache[tuple[str, str], Snapshot] = TTLCache(
            max_bytes, ttl_s, timer=clock, getsizeof=lambda snapshot: snapshot.series.nbytes
        )

    @property
    def nbytes(self) -> int:
        """Memory held by the cached arrays."""
        with self._lock:
            return int(self._entries.currsize)

    def get(self, run_id: str, key: str) -> Snapshot | None:
        """The snapshot put last, if it is still held and not too old."""
        with self._lock:
            return self._entries.get((run_id, key))

    def put(self, run_id: str, key: str, snapshot: Snapshot) -> None:
        """Hold a snapshot, in place of an older one; one larger than the bound is not held."""
        with self._lock:
            self._entries.pop((run_id, key), None)
            with contextlib.suppress(ValueError):  # cachetools: value too large
                self._entries[run_id, key] = snapshot
