"""Bodies of the ingest route for a load: all of them built beforehand, each with steps of its own, in one file.

Points of one run and all of its keys, step by step, as a training logs them; values are a training's curves
(``benchmarks`` curves). Three forms: ``frames`` as the client of this project sends them (one packed frame), ``plain``
frames without compression, and ``arrow``, an IPC stream with dictionaries.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runstream.schemas import frame
from runstream.schemas.frame import Columns

FORMS = ("frames", "plain", "arrow")
KEYS = 50
_START_MS = 1_760_000_000_000
_STEP_MS = 150


@dataclass(frozen=True)
class Bodies:
    """Bodies back to back in ``file``; body ``i`` lies from ``offsets[i]`` to ``offsets[i + 1]`` and has ``points``
    points of run ``i % runs``."""

    file: Path
    offsets: list[int]
    points: int


def key_names() -> list[str]:
    """The keys of every run."""
    return [f"train/layer_{at:02d}/loss" if at % 2 else f"val/metric_{at:02d}" for at in range(KEYS)]


def build(form: str, runs: Sequence[str], count: int, points: int, file: Path) -> Bodies:
    """Write ``count`` bodies of ``points`` points each; the runs take turns, and their steps go on."""
    rows = points // KEYS
    rng = np.random.default_rng(12)
    names = key_names()
    codes = np.tile(np.arange(KEYS, dtype="<u4"), rows)
    offsets = [0]
    with file.open("wb") as out:
        for number in range(count):
            first = number // len(runs) * rows
            steps = np.repeat(np.arange(first, first + rows, dtype="<i8"), KEYS)
            jitter = rng.integers(-20, 20, rows).repeat(KEYS)
            timestamps = _START_MS + steps * _STEP_MS + jitter
            body = _body(
                form, runs[number % len(runs)], names, codes, steps, timestamps, _values(rng, first, rows)
            )
            out.write(body)
            offsets.append(offsets[-1] + len(body))
    return Bodies(file, offsets, rows * KEYS)


def _values(rng: np.random.Generator, first: int, rows: int) -> NDArray[np.float64]:
    """Losses that fall, with noise, rounded to float32 as frameworks hand them out."""
    steps = np.arange(first, first + rows)[:, None]
    scale = np.linspace(200, 5000, KEYS)[None, :]
    curves = 0.1 + 3 * np.exp(-steps / scale) + rng.normal(0, 0.02, (rows, KEYS))
    return curves.astype(np.float32).astype("<f8").ravel()


def _body(
    form: str,
    run_id: str,
    names: list[str],
    codes: NDArray[np.uint32],
    steps: NDArray[np.int64],
    timestamps: NDArray[np.int64],
    values: NDArray[np.float64],
) -> bytes:
    if form == "arrow":
        table = pa.table(
            {
                "run_id": pa.DictionaryArray.from_arrays(np.zeros(len(codes), np.int32), pa.array([run_id])),
                "key": pa.DictionaryArray.from_arrays(codes.astype(np.int32), pa.array(names)),
                "step": steps,
                "timestamp": timestamps,
                "value": values,
            }
        )
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return sink.getvalue()
    columns = Columns(steps.tobytes(), timestamps.tobytes(), values.tobytes(), codes.tobytes())
    frames = (
        frame.encode_json(frame.FILE, {"run_id": run_id})
        + frame.encode_names(list(enumerate(names)))
        + frame.encode_columns(columns)
    )
    return frame.compress(frames) if form == "frames" else frames
