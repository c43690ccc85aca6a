"""MLflow's file store is read as it was written; what is broken or hostile in it is named and skipped."""

from __future__ import annotations

import os
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Metric, Param

from runstream.importing.mlruns import Mlruns
from runstream.importing.sources import SourceRun


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with one experiment and one run, made by MLflow."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    run = store.create_run(store.create_experiment("mine"), start_time=5, run_name="first")
    store.log_batch(run.info.run_id, [Metric("a/b", 0.1, 7, 3)], [Param("lr", "1")])
    return tmp_path / "mlruns"


def _home(folder: Path) -> Path:
    """The folder of the only run."""
    return next(folder.glob("*/*/metrics")).parent


def _read(source: Mlruns) -> tuple[list[SourceRun], list[tuple[str, int, int, float]]]:
    runs = list(source.runs())
    points = [
        (part.keys[0], step, timestamp, value)
        for run in runs
        for part in run.read()
        for step, timestamp, value in zip(part.steps, part.timestamps, part.values, strict=True)
    ]
    return runs, points


def test_what_mlflow_writes(folder: Path) -> None:
    assert Mlruns.recognizes(folder)
    assert not Mlruns.recognizes(folder.parent)
    (run,), points = _read(Mlruns(folder))
    assert points == [("a/b", 3, 7, 0.1)]
    assert (run.run_id, run.name, run.experiment) == (_home(folder).name, "first", "mine")
    assert (run.status, run.start_time, run.end_time, run.params) == ("RUNNING", 5, None, {"lr": "1"})
    assert not run.notes


@pytest.mark.parametrize(
    "line",
    ["7", "7 x 3", "7 1.0 3.5", f"{2**63} 1.0 3", "7 1.0 3 4", "\x00", "7 1.0 " + "9" * 10_000],
)
def test_a_line_that_is_no_point_is_counted_and_the_rest_read(folder: Path, line: str) -> None:
    with (_home(folder) / "metrics" / "a" / "b").open("a") as file:
        file.write(f"{line}\n8 0.2 4\n")
    (run,), points = _read(Mlruns(folder))
    assert points == [("a/b", 3, 7, 0.1), ("a/b", 4, 8, 0.2)]
    assert any("no points are skipped, the first is line 2" in note for note in run.notes)


def test_old_and_new_lines(folder: Path) -> None:
    (_home(folder) / "metrics" / "a" / "b").write_text("7 0.5\n8 nan 4 data digest\n")
    _, points = _read(Mlruns(folder))
    assert points[0] == ("a/b", 0, 7, 0.5)
    assert points[1][:3] == ("a/b", 4, 8)


@pytest.mark.parametrize(
    "meta",
    [
        b"!!python/object/apply:os.system ['false']",
        b"[" * 100_000,
        b"\xff\xfe",
        b"x" * (2 << 20),
        b"",
        b"run_id: another\nexperiment_id: 1",
    ],
)
def test_a_broken_description_costs_its_run_alone(folder: Path, meta: bytes) -> None:
    broken = _home(folder).parent / ("0" * 32)
    broken.mkdir()
    (broken / "meta.yaml").write_bytes(meta)
    source = Mlruns(folder)
    runs, points = _read(source)
    assert [run.name for run in runs] == ["first"]
    assert len(points) == 1
    assert any(str(broken) in note for note in source.notes)


def test_nothing_outside_the_folder_and_nothing_endless_is_read(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("7 1.0 1\n")
    home = _home(folder)
    (home / "artifacts" / "dir").symlink_to(tmp_path)
    (home / "artifacts" / "file").symlink_to(secret)
    (home / "params" / "file").symlink_to(secret)
    (home / "metrics" / "file").symlink_to(secret)
    (home.parent / ("1" * 32)).symlink_to(home)
    os.mkfifo(home / "metrics" / "pipe")
    source = Mlruns(folder)
    (run,), points = _read(source)
    assert len(points) == 1
    assert not run.artifacts
    assert run.params == {"lr": "1"}
    assert sum("symbolic link" in note for note in run.notes + source.notes) == 5
    assert any("pipe" in note for note in run.notes)
