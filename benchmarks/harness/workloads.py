"""Request bodies, built before the load and sent once each.

A body is stored without its beginning, ``{"run_id": "<id>``: run ids are the server's to choose, and the load
generator puts each server's own in front. Everything after it is the same for every server. The text has the
shape that MLflow's client sends (``json.dumps`` with its default separators).

Points are unique: within a row (run, key, step) never repeats, and each row counts its steps from a base of
its own. Bodies may be sent in several passes, so that a fast server does not run out of them: their steps then have
nine digits that begin with 10, and each pass puts 11, 12, … in place of that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks.harness.curves import Curve, catalogue

INDEX = np.dtype([("offset", "<u8"), ("length", "<u4"), ("run", "<u4"), ("points", "<u4")])
START_MS = 1_760_000_000_000
LOG_BATCH = "/api/2.0/mlflow/runs/log-batch"
LOG_METRIC = "/api/2.0/mlflow/runs/log-metric"

# Where steps begin that can be replayed, and how often.
REPLAYED_BASE = 100_000_000
MAX_PASSES = 90
_FIRST_PASS = 10

# A run's points are rendered in pieces of at most this many steps, which bounds memory.
_MAX_PIECE_STEPS = 400


@dataclass(frozen=True)
class Shape:
    """What one row sends.

    ``runs`` and ``keys`` span the series; a request holds ``points`` points of one run, all keys of a step
    before the next step; ``requests`` is how many are built, each sent ``passes`` times at most. ``step_base``
    keeps rows apart, and is ``REPLAYED_BASE`` if there are several passes. With
    ``series`` each request brings keys never seen before, until there are so many series, then starts over at
    the next step. ``single`` makes log-metric calls.
    """

    runs: int
    keys: int
    points: int
    requests: int
    step_base: int = 0
    key_length: int | None = None
    series: int | None = None
    single: bool = False
    passes: int = 1


@dataclass(frozen=True)
class Requests:
    """Built bodies on disk: ``bodies`` back to back, ``index`` (dtype ``INDEX``) one entry a body.

    Requests are numbered through all passes: ``number`` divided by the number of bodies is the pass.
    """

    path: str
    bodies: Path
    index_file: Path
    passes: int = 1

    @property
    def index(self) -> NDArray[np.void]:
        entries: NDArray[np.void] = np.load(self.index_file)
        return entries

    def body(self, entry: np.void, run_id: str) -> bytes:
        """The whole body of one request, as the generator sends it."""
        with self.bodies.open("rb") as file:
            file.seek(int(entry["offset"]))
            return b'{"run_id": "' + run_id.encode() + file.read(int(entry["length"]))

    def nth(self, number: int, run_ids: Sequence[str]) -> tuple[str, bytes]:
        """The run and the whole body of request ``number``."""
        index = self.index
        in_pass, place = divmod(number, len(index))
        run_id = run_ids[int(index[place]["run"])]
        return run_id, replayed(self.body(index[place], run_id), in_pass)


def replayed(body: bytes, in_pass: int) -> bytes:
    """The body as a later pass sends it: of the same length, with steps of its own."""
    return (
        body.replace(b'"step": %d' % _FIRST_PASS, b'"step": %d' % (_FIRST_PASS + in_pass))
        if in_pass
        else body
    )


def build(shape: Shape, folder: Path, seed: int) -> Requests:
    """Write all of a row's bodies below ``folder``; synced, so that write-back does not disturb the runs."""
    steps = (shape.requests * shape.points) // (shape.runs * (shape.series or shape.keys)) + _MAX_PIECE_STEPS
    if shape.passes > 1 and (
        shape.passes > MAX_PASSES or shape.step_base != REPLAYED_BASE or steps >= REPLAYED_BASE // 10
    ):
        raise ValueError(f"these bodies cannot be replayed: {shape}")
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    source = _new_series(shape, rng) if shape.series else _curves(shape, rng)
    entries, offset = [], 0
    bodies = folder / "bodies.bin"
    with bodies.open("wb", buffering=1 << 20) as file:
        for run, points, text in source:
            file.write(text)
            entries.append((offset, len(text), run, points))
            offset += len(text)
        file.flush()
        os.fsync(file.fileno())
    index_file = folder / "index.npy"
    np.save(index_file, np.array(entries, INDEX))
    return Requests(LOG_METRIC if shape.single else LOG_BATCH, bodies, index_file, shape.passes)


def _run_order(shape: Shape, rng: np.random.Generator) -> Iterator[int]:
    """Which run logs next: in random order, in bursts of one to four batches."""
    left = shape.requests
    while left > 0:
        for run in rng.permutation(shape.runs):
            burst = min(left, int(rng.integers(1, 5)))
            yield from [int(run)] * burst
            left -= burst


def _curves(shape: Shape, rng: np.random.Generator) -> Iterator[tuple[int, int, bytes]]:
    keys = catalogue(shape.keys, key_length=shape.key_length)
    steps = 1 + shape.requests * shape.points // (shape.runs * shape.keys)
    piece = min(_MAX_PIECE_STEPS, steps)
    streams = [_Stream(keys, run, shape.step_base, piece, rng) for run in range(shape.runs)]
    for run in _run_order(shape, rng):
        stream = streams[run]
        if shape.single:
            yield run, 1, b'", ' + stream.take(1)[1:]
        else:
            yield run, shape.points, b'", "metrics": [' + stream.take(shape.points) + b"]}"


class _Stream:
    """The endless text of one run's points, in the order step, key."""

    def __init__(
        self,
        keys: Sequence[tuple[str, Curve]],
        run: int,
        step_base: int,
        piece_steps: int,
        rng: np.random.Generator,
    ) -> None:
        self._rng = np.random.default_rng([int(rng.integers(1 << 32)), run])
        self._curves = [curve for _, curve in keys]
        self._heads = [f'{{"key": "{name}", "value": ' for name, _ in keys]
        self._base = step_base
        self._piece_steps = piece_steps
        self._step = 0
        self._step_ms = int(self._rng.integers(40, 900))
        self._clock = START_MS + int(self._rng.integers(0, 3_600_000))
        self._ready: list[str] = []
        self._used = 0

    def take(self, count: int) -> bytes:
        """The next ``count`` points as JSON objects joined by commas."""
        while len(self._ready) - self._used < count:
            self._ready = self._ready[self._used :] + self._piece()
            self._used = 0
        first, self._used = self._used, self._used + count
        return ", ".join(self._ready[first : self._used]).encode()

    def _piece(self) -> list[str]:
        steps = np.arange(self._step, self._step + self._piece_steps)
        values = np.stack([curve(self._rng, steps) for curve in self._curves], axis=1)
        jitter = self._rng.integers(-self._step_ms // 8, self._step_ms // 8 + 1, self._piece_steps)
        clocks = (self._clock + np.cumsum(self._step_ms + jitter)).tolist()
        self._clock = clocks[-1]
        self._step += self._piece_steps
        texts = tokens(values.ravel())
        width, points = len(self._heads), []
        for row, (step, clock) in enumerate(zip(steps.tolist(), clocks, strict=True)):
            tail = f', "timestamp": {clock}, "step": {self._base + step}}}'
            line = texts[row * width : (row + 1) * width]
            points += [head + value + tail for head, value in zip(self._heads, line, strict=True)]
        return points


def _new_series(shape: Shape, rng: np.random.Generator) -> Iterator[tuple[int, int, bytes]]:
    assert shape.series is not None
    for number in range(shape.requests):
        first, step = (number * shape.points) % shape.series, (number * shape.points) // shape.series
        tail = f', "timestamp": {START_MS + number}, "step": {shape.step_base + step}}}'
        texts = tokens(rng.standard_normal(shape.points))
        points = [
            f'{{"key": "embedding/token_{first + i:07d}/update_norm", "value": {value}{tail}'
            for i, value in enumerate(texts)
        ]
        yield number % shape.runs, shape.points, b'", "metrics": [' + ", ".join(points).encode() + b"]}"


def tokens(values: NDArray[np.float64]) -> list[str]:
    """Each number as the shortest JSON text that reads back to it."""
    return (
        orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
        .decode()
        .split(",")
    )
