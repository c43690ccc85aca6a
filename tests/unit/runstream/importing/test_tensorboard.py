"""Event files, as tensorboardX and as our own export write them, are read to the last bit, while they grow too."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from tensorboardX import SummaryWriter

from runstream.importing.sources import SourceRun
from runstream.importing.tensorboard import TensorBoard
from runstream.importing.tensorboard_events import EventFile, Scalars
from runstream.importing.tensorboard_writer import EventWriter

_SECONDS = 1_700_000_000


def _points(run: SourceRun) -> dict[str, list[tuple[int, int, float]]]:
    found: dict[str, list[tuple[int, int, float]]] = {}
    for points in run.read():
        for code, *point in zip(
            points.key_codes, points.steps, points.timestamps, points.values, strict=True
        ):
            step, timestamp, value = point
            found.setdefault(points.keys[code], []).append((int(step), int(timestamp), float(value)))
    return {key: sorted(series) for key, series in found.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "logs"


def test_scalars_texts_histograms_and_hparams(folder: Path) -> None:
    with SummaryWriter(str(folder / "one")) as writer:
        for step in range(300):
            for key in ("loss", "eval/a_longer_name"):
                writer.add_scalar(key, step / 3, step, walltime=_SECONDS + step / 8)
        for step in (-3, 2**40):
            writer.add_scalar("far", 1.5, step, walltime=_SECONDS)
        writer.add_scalars("together", {"a": 1.0, "b": 2.0}, 4, walltime=_SECONDS)
        writer.add_histogram("weights", np.arange(100.0), 3, walltime=_SECONDS)
        writer.add_text("note", "hello", 0)
        for step in range(3):
            writer.add_text("story", f"line {step}", step + 1)
        writer.add_image("picture", np.zeros((3, 4, 4)), 1)
    with SummaryWriter(str(folder / "two")) as writer:
        writer.add_hparams(
            {"lr": 0.1, "opt": "adam", "layers": 3, "flag": True}, {"score": 0.5}, name="trial"
        )

    runs = {run.name: run for run in TensorBoard(folder).runs()}
    one = runs["one"]
    points = _points(one)
    for key in ("loss", "eval/a_longer_name"):
        wanted = [(step, _SECONDS * 1000 + step * 125, float(np.float32(step / 3))) for step in range(300)]
        assert points[key] == wanted
    assert [step for step, *_ in points["far"]] == [-3, 2**40]
    assert points["weights/min"] == [(3, _SECONDS * 1000, 0.0)]
    assert points["weights/max"] == [(3, _SECONDS * 1000, 99.0)]
    assert points["weights/mean"] == [(3, _SECONDS * 1000, 49.5)]
    assert one.tags == {"note": "hello"}
    assert one.texts == {"text/story.txt": "step 1: line 0\nstep 2: line 1\nstep 3: line 2\n"}
    assert any("1 records of images are left out" in note for note in one.notes)
    assert one.start_time is not None
    assert one.experiment == "logs"
    (trial,) = (run for name, run in runs.items() if name.startswith("two/"))
    assert _points(trial)["score"][0][2] == 0.5
    assert trial.params == {"lr": "0.1", "opt": "adam", "layers": "3", "flag": "True"}
    # The same runs, whoever asks.
    assert [run.run_id for run in TensorBoard(folder).runs()] == [run.run_id for run in runs.values()]


def test_a_file_is_read_while_it_grows_and_up_to_its_damage(folder: Path) -> None:
    with EventWriter(folder, 5_000) as writer:
        writer.scalars(["loss"] * 50, list(range(50)), list(range(50)), np.arange(50.0))
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    growing = folder / "growing"
    file = EventFile(growing)
    seen: list[int] = []
    for end in range(0, len(whole) + 1, 97):
        growing.write_bytes(whole[:end])
        seen += [step for one in file.read() if isinstance(one, Scalars) for step in one.steps.tolist()]
    growing.write_bytes(whole)
    seen += [step for one in file.read() if isinstance(one, Scalars) for step in one.steps.tolist()]
    assert seen == list(range(50))
    assert file.damaged is None

    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 1
    path.write_bytes(broken)
    file = EventFile(path)
    kept = [step for one in file.read() if isinstance(one, Scalars) for step in one.steps.tolist()]
    assert sorted(kept) == list(range(len(kept)))
    assert 10 < len(kept) < 50
    assert file.damaged is not None


def test_float64_and_nan_bits_survive(folder: Path) -> None:
    bits = [0x7FF8000000000001, 0xFFF8000000000000, 0x7FF0000000000000, 1, 0x3FB999999999999A, 1 << 63]
    values = np.array(bits * 20, np.uint64).view(np.float64)
    steps = list(range(len(values)))
    with EventWriter(folder, 0) as writer:
        writer.scalars(["v"] * len(values), steps, [_SECONDS * 1000 + step for step in steps], values)
    (run,) = TensorBoard(folder).runs()
    (points,) = run.read()
    order = np.argsort(points.steps)
    assert struct.pack(f"<{len(values)}d", *points.values[order]) == values.tobytes()
    assert points.timestamps[order].tolist() == [_SECONDS * 1000 + step for step in steps]
