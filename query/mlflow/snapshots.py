"""A bounded cache of whole series, so that paging through a long history reads it once."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from runstream.query.points.series import Series


class SnapshotCache:
    """Series by (run id, key), the least recently used dropped first. Thread-safe; never blocks for long.

    Only later pages of a history are answered from here: a first page is always read anew. ``max_bytes``
    bounds the arrays held; an entry is forgotten ``ttl_s`` after it was put, so that a client that pages by
    offset sees points logged meanwhile as it would on stock MLflow, a little later.
    """

    def __init__(
        self, max_bytes: int, ttl_s: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[str, str], tuple[Series, float]] = OrderedDict()
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        """Memory held by the cached arrays."""
        return self._bytes

    def get(self, run_id: str, key: str) -> Series | None:
        """The series put last, if it is still held and not too old."""
        with self._lock:
            entry = self._entries.get((run_id, key))
            if entry is None:
                return None
            series, put_at = entry
            if self._clock() - put_at > self._ttl_s:
                self._drop((run_id, key))
                return None
            self._entries.move_to_end((run_id, key))
            return series

    def put(self, run_id: str, key: str, series: Series) -> None:
        """Hold a series, in place of an older one; one larger than the bound is not held."""
        with self._lock:
            self._drop((run_id, key))
            if series.nbytes > self._max_bytes:
                return
            self._entries[run_id, key] = (series, self._clock())
            self._bytes += series.nbytes
            while self._bytes > self._max_bytes:
                self._drop(next(iter(self._entries)))

    def forget_runs(self, run_ids: set[str]) -> None:
        """Drop every series of these runs."""
        with self._lock:
            for entry in [entry for entry in self._entries if entry[0] in run_ids]:
                self._drop(entry)

    def _drop(self, entry: tuple[str, str]) -> None:
        held = self._entries.pop(entry, None)
        if held is not None:
            self._bytes -= held[0].nbytes
