"""Thinned-out curves of long series, kept while they are right."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from query.parts import Coverage, Part, active_parts, coverage, touches
from query.selection import Selection
from query.series import Series
from schemas.database import Database


@dataclass(slots=True)
class _Entry:
    series: Series
    seen: Coverage


class CurveCache:
    """Results by question, the least recently used dropped first. Thread-safe.

    Every answer is checked against the table: a point that a reader could see is never missing from it.
    """

    def __init__(self, database: Database, *, max_bytes: int = 32 << 20) -> None:
        self._database = database
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._bytes = 0

    def get_or_make(
        self,
        question: Hashable,
        selection: Selection,
        settings: Mapping[str, Any],
        make: Callable[[], Series | None],
    ) -> Series | None:
        """The answer to ``question``, which is about ``selection`` (one series). Blocks; raises ``DatabaseError``."""
        parts = active_parts(self._database)
        with self._lock:
            entry = self._entries.get(question)
        if entry is not None and parts and self._still_right(entry.seen, parts, selection, settings):
            entry.seen = coverage(parts)
            with self._lock:
                if question in self._entries:
                    self._entries.move_to_end(question)
            return entry.series
        series = make()
        if series is not None and parts:
            # What was there before the reading began; the reading may have seen more.
            self._put(question, _Entry(series, coverage(parts)))
        return series

    def _still_right(
        self, seen: Coverage, parts: list[Part], selection: Selection, settings: Mapping[str, Any]
    ) -> bool:
        fresh = [part for part in parts if not seen.holds(part)]
        if any(part.deletion > seen.deletion for part in fresh):
            return False  # rows are gone, and the parts do not show whose
        where, parameters = selection.where()
        return not fresh or not touches(self._database, fresh, where, parameters, settings)

    def _put(self, question: Hashable, entry: _Entry) -> None:
        with self._lock:
            old = self._entries.pop(question, None)
            self._bytes += entry.series.nbytes - (old.series.nbytes if old else 0)
            self._entries[question] = entry
            while self._bytes > self._max_bytes:
                _, dropped = self._entries.popitem(last=False)
                self._bytes -= dropped.series.nbytes
