"""Thinned-out curves of long series, kept while they are right."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from runstream.query.points.parts import Coverage, active_parts, coverage, still_right
from runstream.query.points.selection import Selection
from runstream.query.points.series import Series
from runstream.query.points.sized_cache import SizedCache
from runstream.schemas.ports.database import Database


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
        self._cache: SizedCache[Hashable, _Entry] = SizedCache(max_bytes, lambda entry: entry.series.nbytes)

    def get_or_make(
        self,
        question: Hashable,
        selection: Selection,
        settings: Mapping[str, Any],
        make: Callable[[], Series | None],
    ) -> Series | None:
        """The answer to ``question``, which is about ``selection`` (one series). Blocks; raises ``DatabaseError``."""
        parts = active_parts(self._database)
        entry = self._cache.get(question)
        where, parameters = selection.where()
        if entry is not None and still_right(self._database, entry.seen, parts, where, parameters, settings):
            entry.seen = coverage(parts)
            return entry.series
        series = make()
        if series is not None and parts:
            # What was there before the reading began; the reading may have seen more.
            self._cache.put(question, _Entry(series, coverage(parts)))
        return series
