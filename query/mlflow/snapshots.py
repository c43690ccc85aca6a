"""A bounded cache of whole series, so that paging through a long history reads it once."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

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
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[str, str], tuple[Snapshot, float]] = OrderedDict()
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        """Memory held by the cached arrays."""
        return self._bytes

    def get(self, run_id: str, key: str) -> Snapshot | None:
        """The snapshot put last, if it is still held and not too old."""
        with self._lock:
            entry = self._entries.get((run_id, key))
            if entry is None:
                return None
            snapshot, put_at = entry
            if self._clock() - put_at > self._ttl_s:
                self._drop((run_id, key))
                return None
            self._entries.move_to_end((run_id, key))
            return snapshot

    def put(self, run_id: str, key: str, snapshot: Snapshot) -> None:
        """Hold a snapshot, in place of an older one; one larger than the bound is not held."""
        with self._lock:
            self._drop((run_id, key))
            if snapshot.series.nbytes > self._max_bytes:
                return
            self._entries[run_id, key] = (snapshot, self._clock())
            self._bytes += snapshot.series.nbytes
            while self._bytes > self._max_bytes:
                self._drop(next(iter(self._entries)))

    def _drop(self, entry: tuple[str, str]) -> None:
        held = self._entries.pop(entry, None)
        if held is not None:
            self._bytes -= held[0].series.nbytes
