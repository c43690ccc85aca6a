"""Adopting a database of MLflow in place: nothing is made anew, its points move to ClickHouse while it is served."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from runstream.importing.adoption import AdoptionState
from runstream.importing.metrics_table import MetricsTable, open_table
from runstream.importing.move import Mover
from runstream.importing.read_back import read_back
from runstream.importing.report import Report
from runstream.importing.sums import Sums, hashes
from runstream.ingest.queue.protocol import Producer
from runstream.query.client.http import Http

# Told how far a phase has come (of how much), and how many points that is.
Progress = Callable[[str, int, int, int], None]
_ROUNDS = 3


async def adopt(uri: str, producer: Producer, progress: Progress) -> int:
    """Move what has not been moved; the number of points. May be killed at any time, and called again.

    PostgreSQL may put rows that come later into pages that are behind already: ``verify`` finds them.
    """
    table = open_table(uri)
    mover = Mover(producer)
    state = AdoptionState(uri)
    begin, _ = state.read()
    moved, place, end = 0, begin, table.end()
    while True:
        for start, stop in table.ranges(place, end):
            async for count in mover.move(table, start, stop):
                moved += count
                progress("moving", start - begin, end - begin, moved)
            state.write(stop, complete=False)
            progress("moving", stop - begin, end - begin, moved)
        # A server that still writes to the table may have added to it meanwhile.
        place, end = end, table.end()
        if end <= place:
            break
    state.write(place, complete=True)
    return moved


async def _again(table: MetricsTable, producer: Producer, run_ids: list[str]) -> None:
    """Move these runs once more: rows that came to places that had been passed already."""
    mover = Mover(producer)
    for run_id in run_ids:
        async for _ in mover.move_run(table, run_id):
            pass


async def verify(uri: str, producer: Producer, http: Http, progress: Progress) -> Report:
    """Read all points on both sides and compare them, series by series; what lacks is moved again first."""
    table = open_table(uri)
    report = Report()
    source, target = Sums(), Sums()
    end = table.end()
    seen = 0
    for start, stop in table.ranges(0, end):
        for points in table.read(start, stop):
            source.add(points)
            seen += len(points)
        progress("counting the source", stop, end, seen)
    totals = source.totals()
    seen = 0
    for points in read_back(http, source.runs):
        target.add(points)
        seen += len(points)
        progress("reading back", min(seen, totals.points), totals.points, seen)
    lacking = sorted({run_id for run_id, *_ in source.differences(target)})
    for round_ in range(_ROUNDS):
        lacking = [run_id for run_id in lacking if _lacks(table, http, run_id)]
        if not lacking or round_ == _ROUNDS - 1:
            break
        await _again(table, producer, lacking)
    report.source.runs = totals.runs
    report.source.add(totals)
    # Points that a run has got since are no part of the comparison.
    report.target.runs, report.target.series = totals.runs, totals.series
    report.target.points, report.target.nans = totals.points, totals.nans
    for run_id in lacking:
        report.target.points -= _lacks(table, http, run_id)
        report.missing.append(f"run {run_id}")
    report.verified = True
    return report


def _lacks(table: MetricsTable, http: Http, run_id: str) -> int:
    """How many points of the run in the table the server does not show."""
    here = [hashes(points) for points in table.of_run(run_id)]
    there = [hashes(points) for points in read_back(http, [run_id])]
    if not here:
        return 0
    if not there:
        return sum(map(len, here))
    return int(np.count_nonzero(~np.isin(np.concatenate(here), np.concatenate(there))))
