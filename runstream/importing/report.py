"""What an import comes to: the source beside the target, and what is not the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from runstream.importing.sums import Totals

# So many lines of each kind are shown; the rest is counted.
_SHOWN = 20


@dataclass(slots=True)
class Side:
    """Counts of one side."""

    runs: int = 0
    series: int = 0
    points: int = 0
    nans: int = 0
    artifacts: int = 0

    def add(self, totals: Totals) -> None:
        """Count these series in; runs without points are counted by whoever knows of them."""
        self.series += totals.series
        self.points += totals.points
        self.nans += totals.nans


@dataclass(slots=True)
class Report:
    """``missing`` is what the target lacks: an import with any has failed. ``notes`` is what was changed on the way."""

    source: Side = field(default_factory=Side)
    target: Side = field(default_factory=Side)
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    verified: bool = False

    @property
    def complete(self) -> bool:
        """Whether the target holds all that the source does, as far as that has been looked at."""
        return not self.missing

    def lines(self) -> Iterator[str]:
        """The report as text."""
        yield f"{'':<10} {'source':>16} {'target':>16}"
        for name in ("runs", "series", "points", "nans", "artifacts"):
            there = f"{getattr(self.target, name):,}" if self.verified else "not verified"
            yield f"{'NaN' if name == 'nans' else name:<10} {getattr(self.source, name):>16,} {there:>16}"
        for title, lines in (("changed on the way", self.notes), ("MISSING", self.missing)):
            if lines:
                yield f"{title}: {len(lines):,}"
                yield from (f"  {line}" for line in lines[:_SHOWN])
                if len(lines) > _SHOWN:
                    yield f"  and {len(lines) - _SHOWN:,} more"
        if self.verified and self.complete:
            yield "every point is there, bit for bit"
