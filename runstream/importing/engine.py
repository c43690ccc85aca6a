"""The way of every run from a source to a server: created, described, sent, uploaded, finished, read back, noted."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from runstream.importing.ledger import Done, Ledger
from runstream.importing.metrics_table import ahead
from runstream.importing.read_back import read_back
from runstream.importing.report import Report
from runstream.importing.sources import Experiments, Source, SourceRun
from runstream.importing.sums import Hashes, hashes
from runstream.importing.target import Target, write_texts
from runstream.query.client.http import Http
from runstream.schemas.record import PointColumns

# Told how many runs of how many are done, and how many points.
Progress = Callable[[str, int, int, int], None]


@dataclass
class Import:
    """An import into one server. ``verify`` reads every point back."""

    source: Source
    target: Target
    http: Http
    ledger: Ledger
    verify: bool = True
    seen: dict[str, Done] = field(default_factory=dict)

    def run(self, progress: Progress, *, growing: bool = False) -> Report:
        """Bring what is new since the last time. While the source is ``growing`` its runs stay open."""
        report = Report(verified=self.verify and not growing)
        experiments = list(self.source.experiments()) if isinstance(self.source, Experiments) else []
        runs = list(self.source.runs())
        if isinstance(self.source, Experiments):
            report.notes += self.source.notes
        waiting = {run.experiment for run in runs if not self._is_done(run)}
        for experiment in experiments:
            self.target.prepare(experiment, experiment.name in waiting)
        points = 0
        for place, run in enumerate(runs):
            done = self.ledger.done(run.run_id)
            if growing and (done is None or done.version != run.version):
                done = self.seen.get(run.run_id)
            if done is None or done.version != run.version:
                done = self.seen[run.run_id] = self._bring(run, report, growing)
            _count(report, done, run)
            points += done.points
            progress("importing", place + 1, len(runs), points)
        if not growing:
            for experiment in experiments:
                self.target.close(experiment)
        return report

    def _is_done(self, run: SourceRun) -> bool:
        done = self.ledger.done(run.run_id)
        return done is not None and done.version == run.version

    def _bring(self, run: SourceRun, report: Report, growing: bool) -> Done:
        """One run; noted only when all of it is there, and was looked at."""
        created = False
        sums = _Counts()
        for points in ahead(run.more if growing and run.more is not None else run.read):
            if not created:
                # The times of a run are known from its first points on.
                self.target.create(run)
                created = True
            self.target.send(points)
            sums.add(points)
        if not created:
            self.target.create(run)
        self.target.describe(run)
        with tempfile.TemporaryDirectory(prefix="runstream-import-") as folder:
            artifacts = self.target.upload(run, write_texts(run, Path(folder)))
        if growing:
            run.status, run.deleted = "RUNNING", False
        if self.verify and not growing:
            # Before the run may be deleted.
            self._compare(run, sums, report)
        self.target.finish(run)
        done = Done(run.version, len(sums.keys), sums.points, sums.nans, artifacts)
        if not growing and not report.missing:
            self.ledger.note(run.run_id, done)
        return done

    def _compare(self, run: SourceRun, sums: _Counts, report: Report) -> None:
        there = [hashes(points) for points in read_back(self.http, [run.run_id])] if sums.points else []
        lost = (
            len(sums.hashes) if not there else np.count_nonzero(~np.isin(sums.hashes, np.concatenate(there)))
        )
        if lost:
            report.missing.append(f"{lost:,} points of {run.name} (run {run.run_id})")
            report.target.points -= int(lost)


class _Counts:
    """The distinct points of one run, as hashes."""

    def __init__(self) -> None:
        self._parts: list[Hashes] = []
        self._nans: list[Hashes] = []
        self.keys: set[str] = set()
        self._distinct: Hashes | None = None

    def add(self, points: PointColumns) -> None:
        self._distinct = None
        found = hashes(points)
        self._parts.append(found)
        self._nans.append(found[np.isnan(points.values)])
        keys = list(points.keys)
        self.keys.update(keys[code] for code in np.unique(points.key_codes).tolist())

    @property
    def hashes(self) -> Hashes:
        """Each point once."""
        if self._distinct is None:
            self._distinct = np.unique(np.concatenate(self._parts)) if self._parts else np.empty(0, np.uint64)
            self._parts = [self._distinct]
        return self._distinct

    @property
    def points(self) -> int:
        return len(self.hashes)

    @property
    def nans(self) -> int:
        return len(np.unique(np.concatenate(self._nans))) if self._nans else 0


def _count(report: Report, done: Done, run: SourceRun) -> None:
    report.notes += [f"{run.name}: {note}" for note in run.notes]
    for side in (report.source, report.target):
        side.runs += 1
        side.series += done.series
        side.points += done.points
        side.nans += done.nans
        side.artifacts += done.artifacts


def plan(source: Source, ledger: Ledger) -> Iterator[str]:
    """What an import would bring: a line for each run, read through but not sent."""
    waiting = 0
    for run in source.runs():
        done = ledger.done(run.run_id)
        if done is not None and done.version == run.version:
            continue
        waiting += 1
        counts = _Counts()
        for points in ahead(run.read):
            counts.add(points)
        files = len(run.artifacts) + len(run.texts)
        yield (
            f"{run.experiment} / {run.name}: run {run.run_id}, {len(counts.keys):,} series, {counts.points:,} points,"
            f" {len(run.params)} params, {len(run.tags)} tags, {files} artifacts"
        )
        yield from (f"  {note}" for note in run.notes)
    if not waiting:
        yield "nothing that has not been imported"
