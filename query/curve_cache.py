"""Thinned-out curves of long series, kept while they are right."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from query.kept import Kept
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
        self._kept: Kept[Hashable, _Entry] = Kept(max_bytes, lambda entry: entry.series.nbytes)

    def get_or_make(
        self,
        question: Hashable,
        selection: Selection,
        settings: Mapping[str, Any],
        make: Callable[[], Series | None],
    ) -> Series | None:
        """The answer to ``question``, which is about ``selection`` (one series). Blocks; raises ``DatabaseError``."""
        parts = active_parts(self._database)
        entry = self._kept.get(question)
        if entry is not None and parts and self._still_right(entry.seen, parts, selection, settings):
            entry.seen = coverage(parts)
            return entry.series
        series = make()
        if series is not None and parts:
            # What was there before the reading began; the reading may have seen more.
            self._kept.put(question, _Entry(series, coverage(parts)))
        return series

    def _still_right(
        self, seen: Coverage, parts: list[Part], selection: Selection, settings: Mapping[str, Any]
    ) -> bool:
        fresh = [part for part in parts if not seen.holds(part)]
        if any(part.deletion > seen.deletion for part in fresh):
            return False  # rows are gone, and the parts do not show whose
        where, parameters = selection.where()
        return not fresh or not touches(self._database, fresh, where, parameters, settings)
