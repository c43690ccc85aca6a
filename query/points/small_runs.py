"""Runs of few points, whole and in memory, for as long as nothing is added to them or removed.

A statement of ClickHouse costs as much for a series of twenty points as for the eight thousand rows around it, which it
reads anyway (a granule). So the first question for a small run takes those rows, and the runs that are whole among
them answer from memory from then on.

What makes that right: whoever changes the table says so before and after. The writer, in the same process, names the
runs of each insert (``InsertWatch``); everything else (deletions, repairs) is ``changing`` and forgets everything.
What was read while a change of its run was under way is answered, and not kept. A table that others change too,
on a server, cannot be kept like this.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from cachetools import FIFOCache, LRUCache
from numpy.typing import NDArray

from runstream.query.points.series import EMPTY, Floats, Ints, Series
from runstream.schemas.ports.database import Database
from runstream.schemas.ports.inserts import RunSet

# A granule of the table (index_granularity), read whole whatever is asked of it.
MAX_ROWS = 8192
_ROWS = (
    "SELECT run_id, key, step, timestamp, value FROM metrics WHERE run_id >= {run:String}"
    " ORDER BY run_id, key, step, timestamp, value LIMIT {rows:UInt64}"
)
_SETTINGS = {"output_format_arrow_low_cardinality_as_dictionary": 1}
# What a run and a series take beside their points.
_RUN_BYTES, _SERIES_BYTES = 600, 150
# A run that was changed under its readers is being logged: it is not worth its neighbours again so soon.
_BUSY_S = 10.0
# Nobody reads any more: what is kept would only cost the writer.
_IDLE_S = 60.0
_MAX_NOTES = 10_000

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class RunPoints:
    """All rows of a run in the table's order (key, step, timestamp, value), repeats included; series ``n`` is rows
    ``bounds[n]`` to ``bounds[n + 1]``, ``places`` says which series a key is."""

    places: Mapping[str, int]
    bounds: NDArray[np.int64]
    steps: Ints
    timestamps: Ints
    values: Floats

    def rows(self, key: str) -> Series:
        """The rows of a key, as they are in the table."""
        place = self.places.get(key)
        if place is None:
            return EMPTY
        rows = slice(int(self.bounds[place]), int(self.bounds[place + 1]))
        return Series(self.steps[rows], self.timestamps[rows], self.values[rows])

    @property
    def nbytes(self) -> int:
        """Memory that it takes, about."""
        names = sum(map(len, self.places)) + _SERIES_BYTES * len(self.places)
        return _RUN_BYTES + names + 24 * len(self.steps)


_NOTHING = RunPoints({}, np.zeros(1, np.int64), EMPTY.steps, EMPTY.timestamps, EMPTY.values)


@dataclass(slots=True, eq=False)
class _Load:
    """A reading under way, and the inserts that it may have seen a part of."""

    inserts: list[RunSet] = field(default_factory=list)
    void: bool = False


class SmallRuns:
    """Runs of at most ``MAX_ROWS`` rows, the least recently read dropped first past ``max_bytes``. Thread-safe;
    only ``load`` blocks."""

    def __init__(
        self,
        database: Database,
        *,
        max_bytes: int = 32 << 20,
        settings: Mapping[str, Any] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._database = database
        self._settings = {**_SETTINGS, **(settings or {})}
        self._clock = clock
        self._lock = threading.Lock()
        self._held: LRUCache[str, RunPoints] = LRUCache(max_bytes, getsizeof=lambda points: points.nbytes)
        # Runs that are not worth a reading: too large (for ever), or busy until then.
        self._skipped: FIFOCache[str, float] = FIFOCache(_MAX_NOTES)
        self._loads: set[_Load] = set()
        self._inserting: RunSet | None = None
        self._changes = 0
        self._read_at = clock()

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return int(self._held.currsize)

    def get(self, run_id: str) -> RunPoints | None:
        """The points of a run, if they are here. Every point that readers of the table could see, and no other."""
        with self._lock:
            found = self._held.get(run_id)
            if found is not None:
                self._read_at = self._clock()
            return found

    def load(self, run_id: str) -> RunPoints | None:
        """``get``, and if it is not here read it, with what lies beside it; ``None`` if it is too large, or being
        written. Blocks; raises ``DatabaseError``."""
        found = self.get(run_id)
        if found is not None:
            return found
        with self._lock:
            self._read_at = self._clock()
            if self._skipped.get(run_id, 0.0) > self._read_at:
                return None
            load = _Load([self._inserting] if self._inserting is not None else [], self._changes > 0)
            self._loads.add(load)
        try:
            table = self._database.arrow(_ROWS, {"run": run_id, "rows": MAX_ROWS + 1}, self._settings)
            runs = _split(table)
            if table.num_rows > MAX_ROWS:
                runs.popitem()  # the limit cut it off
                if not runs:
                    self._note(run_id, float("inf"))
                    return None
            found = runs.setdefault(run_id, _NOTHING)
        except BaseException:
            with self._lock:
                self._loads.discard(load)
            raise
        with self._lock:
            self._loads.discard(load)
            if not load.void:
                changed = set().union(*(insert.among(runs.keys()) for insert in load.inserts))
                for name, points in runs.items():
                    # The one that was asked for last, so that its neighbours go first.
                    if name not in changed and name not in self._held and name != run_id:
                        self._hold(name, points)
                if run_id not in changed:
                    self._hold(run_id, found)
        return found

    def inserting(self, runs: RunSet) -> None:
        """See ``InsertWatch``."""
        with self._lock:
            self._inserting = runs
            for load in self._loads:
                load.inserts.append(runs)
            if self._held and self._clock() - self._read_at > _IDLE_S:
                self._clear()
            for run_id in runs.among(self._held.keys()):
                del self._held[run_id]
                self._skip(run_id, self._clock() + _BUSY_S)

    def inserted(self) -> None:
        """See ``InsertWatch``."""
        with self._lock:
            self._inserting = None

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Rows of any run may come and go inside the block."""
        with self._lock:
            self._changes += 1
            self._forget()
        try:
            yield
        finally:
            with self._lock:
                self._changes -= 1
                self._forget()

    # With the lock

    def _forget(self) -> None:
        self._clear()
        for load in self._loads:
            load.void = True

    def _clear(self) -> None:
        self._held.clear()
        self._skipped.clear()

    def _hold(self, run_id: str, points: RunPoints) -> None:
        self._held.pop(run_id, None)
        with contextlib.suppress(ValueError):  # cachetools: value too large
            self._held[run_id] = points

    def _note(self, run_id: str, until: float) -> None:
        with self._lock:
            self._skip(run_id, until)

    def _skip(self, run_id: str, until: float) -> None:
        self._skipped[run_id] = until


def _split(table: pa.Table) -> dict[str, RunPoints]:
    """Rows in the table's order, by run."""
    found: dict[str, RunPoints] = {}
    if not table.num_rows:
        return found
    runs, run_names = _codes(table.column("run_id"))
    keys, key_names = _codes(table.column("key"))
    steps, timestamps, values = (table.column(name).to_numpy() for name in ("step", "timestamp", "value"))
    new_run = np.flatnonzero(runs[1:] != runs[:-1]) + 1
    new_series = np.flatnonzero((runs[1:] != runs[:-1]) | (keys[1:] != keys[:-1])) + 1
    begins = np.concatenate(([0], new_series))
    edges = [0, *new_run.tolist(), len(runs)]
    for begin, end in itertools.pairwise(edges):
        first, last = np.searchsorted(begins, (begin, end)).tolist()
        names = [key_names[code] for code in keys[begins[first:last]].tolist()]
        found[run_names[int(runs[begin])]] = RunPoints(
            {name: place for place, name in enumerate(names)},
            np.append(begins[first:last], end) - begin,
            # Copies: a part of the rows must not hold all of them.
            steps[begin:end].copy(),
            timestamps[begin:end].copy(),
            values[begin:end].copy(),
        )
    return found


def _codes(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], Sequence[str]]:
    """A number for each text, and the texts."""
    whole = column.unify_dictionaries().combine_chunks()
    if not pa.types.is_dictionary(whole.type):
        whole = whole.dictionary_encode()
    return whole.indices.to_numpy().astype(np.int64), whole.dictionary.to_pylist()
