"""MLflow's file store, written by MLflow's own client, arrives whole: what the client reads of both is the same."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import uuid
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pytest
from mlflow.entities import Metric, Param, RunTag, ViewType

from runstream.query.client import connect

_DEADLINE_S = 240.0
_START = 1_700_000_000_000
_STEPS = 1_500
_ODD = (math.nan, math.inf, -math.inf, 5e-324, -0.0)


def _import(*arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "runstream", "import", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        timeout=_DEADLINE_S,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def _fill(store: mlflow.MlflowClient, experiment: str, number: int, files: Path) -> str:
    run_id = str(
        store.create_run(experiment, start_time=_START + number, run_name=f"run {number}").info.run_id
    )
    points = [
        Metric(key, value, _START + step, step)
        for step in range(_STEPS)
        for key, value in (("loss", step / 7 + number), ("deep/系 a", -float(step)))
    ]
    points += [Metric("odd", value, _START, -5) for value in _ODD]
    for first in range(0, len(points), 1_000):
        store.log_batch(run_id, points[first : first + 1_000])
    store.log_batch(
        run_id, params=[Param("model/lr", "0.1"), Param("words", "ü\nnext")], tags=[RunTag("a/b", "c")]
    )
    store.log_artifact(run_id, str(files / "a file.bin"), "deep")
    store.set_terminated(run_id, ("FINISHED", "FAILED", "KILLED")[number], _START + 9_000 + number)
    return run_id


def _as_of_a_database(value: float) -> float:
    """What a server of MLflow answers for this value: its database keeps no infinity and no sign of zero."""
    return math.copysign(sys.float_info.max, value) if math.isinf(value) else value + 0.0


def _facts(store: mlflow.MlflowClient, run_id: str) -> dict[str, object]:
    run = store.get_run(run_id)
    info = run.info
    return {
        "info": (info.run_name, info.status, info.start_time, info.end_time, info.lifecycle_stage),
        "params": run.data.params,
        "tags": {key: value for key, value in run.data.tags.items() if key != "mlflow.user"},
        "user": run.data.tags.get("mlflow.user"),
        "points": {
            key: sorted(
                (one.step, one.timestamp, _as_of_a_database(one.value).hex())
                for one in store.get_metric_history(run_id, key)
            )
            for key in sorted(run.data.metrics)
        },
    }


@pytest.mark.timeout(600)
def test_a_file_store_arrives_as_the_client_reads_it(
    runstream_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = tmp_path / "mlruns"
    files = tmp_path / "files"
    files.mkdir()
    (files / "a file.bin").write_bytes(b"\0\xff" * 1000)
    source = mlflow.MlflowClient(folder.as_uri())
    there = mlflow.MlflowClient(runstream_url)
    name = f"moved {uuid.uuid4().hex[:8]}"
    living = source.create_experiment(name, tags={"team": "a"})
    gone = source.create_experiment(f"{name} gone")
    runs = [_fill(source, living, number, files) for number in range(2)]
    runs.append(_fill(source, gone, 2, files))
    source.delete_run(runs[1])
    source.delete_experiment(gone)
    wanted = {run_id: _facts(source, run_id) for run_id in runs}

    # What is broken or wants out of the folder is named, and holds nothing else up.
    home = folder / living
    (tmp_path / "secret").write_text("secret")
    (home / runs[0] / "artifacts" / "link").symlink_to(tmp_path / "secret")
    (home / runs[0] / "params" / "link").symlink_to(tmp_path / "secret")
    with (home / runs[0] / "metrics" / "loss").open("a") as lines:
        lines.write("1700000000000 not-a-number 3\n1700000000000 1.0 99999999999999999999\nhalf")
    broken = home / ("0" * 32)
    broken.mkdir()
    (broken / "meta.yaml").write_text("!!python/object/apply:os.system ['touch /tmp/never']")
    (folder / "1").mkdir(exist_ok=True)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    command = (folder.as_uri(), "--server", runstream_url, "--ledger", tmp_path / "ledger.db")
    assert f"{2 * _STEPS + 5:,} points" in _import(*command, "--dry-run")
    said = _import(*command)
    assert "every point is there, bit for bit" in said
    for named in (
        "3 lines that are no points",
        str(broken),
        f"{home / runs[0] / 'artifacts' / 'link'} is skipped",
    ):
        assert named in said

    for run_id in runs:
        assert _facts(there, run_id) == wanted[run_id]
    # Runstream's own reads keep what MLflow's do not.
    with connect(runstream_url) as connection:
        table = connection.get_metrics([runs[0]], as_="arrow")
    keys = np.array(table.column("key").cast(pa.string()).to_pylist())
    odd = table.column("value").to_numpy()[keys == "odd"]
    assert sorted(map(float.hex, odd.tolist())) == sorted(map(float.hex, _ODD))
    for run_id in runs[:2]:
        listed = [one.path for one in there.list_artifacts(run_id, "deep")]
        assert listed == ["deep/a file.bin"]
        assert [one.path for one in there.list_artifacts(run_id)] == ["deep"]
    brought = there.get_experiment_by_name(name)
    assert brought is not None
    assert brought.tags["team"] == "a"
    found = there.search_runs([brought.experiment_id], run_view_type=ViewType.ALL)
    assert {run.info.run_id for run in found} == set(runs[:2])
    dropped = there.get_experiment_by_name(f"{name} gone")
    assert dropped is not None
    assert dropped.lifecycle_stage == "deleted"

    # Again, with and without the memory of it: the same.
    assert "every point is there" in _import(*command)
    said = _import(*command[:-1], tmp_path / "another.db")
    assert "every point is there" in said
    assert "refused" not in said
    for run_id in runs:
        assert _facts(there, run_id) == wanted[run_id]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
