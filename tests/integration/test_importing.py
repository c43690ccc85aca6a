"""Moving in from other tools' files, and out again to another server: every point, bit for bit, whatever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from tensorboardX import SummaryWriter

from runstream.ingest.client.link import INGEST
from runstream.query.client import connect
from runstream.schemas.wire import ARROW
from support.mlflow_client import Rest
from support.runstream_server import RunstreamServer

_DEADLINE_S = 240.0
_SECONDS = 1_700_000_000
_STEPS = 40_000


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunstreamServer]:
    """A second server, with nothing in it."""
    with RunstreamServer(tmp_path_factory.mktemp("other") / "data") as server:
        yield server


def _start(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "runstream", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def _run(*arguments: str | Path) -> str:
    started = _start(*arguments)
    said, _ = started.communicate(timeout=_DEADLINE_S)
    assert started.returncode == 0, said
    return said


def _points(server: str, run_ids: list[str]) -> Any:
    """Points as a table without dictionaries, in order."""
    with connect(server) as connection:
        table = connection.get_metrics(run_ids, as_="arrow")
    return pa.table(
        {name: table.column(name).cast(pa.string()) for name in ("run_id", "key")}
        | {name: table.column(name) for name in ("step", "timestamp", "value")}
    ).sort_by([(name, "ascending") for name in ("run_id", "key", "step", "timestamp")])


@pytest.mark.timeout(600)
def test_tensorboard_is_killed_in_the_middle_and_arrives_whole(
    other: RunstreamServer, tmp_path: Path
) -> None:
    logs = tmp_path / "logs"
    for name in ("one", "two"):
        with SummaryWriter(str(logs / name)) as writer:
            for step in range(_STEPS):
                writer.add_scalar("loss", step / 7, step, walltime=_SECONDS + step)
            writer.add_hparams({"lr": 0.1}, {"score": 1.0}, name="trial")
            writer.add_text("note", "read me", 0)
    before = {path: path.read_bytes() for path in logs.rglob("*") if path.is_file()}
    ledger = tmp_path / "ledger.db"
    command = ("import", logs, "--server", other.url, "--ledger", ledger)
    assert f"{_STEPS:,} points" in _run(*command, "--dry-run")

    killed = _start(*command)
    with Rest(other.url) as rest:
        deadline = time.monotonic() + _DEADLINE_S
        while killed.poll() is None and time.monotonic() < deadline:
            answer = rest.post("api/2.0/mlflow/experiments/search", {"max_results": 100})
            if any(one["name"] == "logs" for one in answer["experiments"]):
                break
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=_DEADLINE_S)

    said = _run(*command)
    assert "every point is there, bit for bit" in said
    with connect(other.url) as connection:
        found = connection.get_metrics(experiment="logs", as_="arrow")
    wanted = np.float32(np.arange(_STEPS) / 7).astype(np.float64)
    keys = np.array(found.column("key").cast(pa.string()).to_pylist())
    assert (keys == "loss").sum() == 2 * _STEPS
    for run_id in set(found.column("run_id").cast(pa.string()).to_pylist()):
        mine = found.filter(pa.compute.equal(found.column("run_id").cast(pa.string()), run_id))
        if mine.num_rows == _STEPS:
            assert np.array_equal(mine.column("value").to_numpy(), wanted)
            assert np.array_equal(mine.column("timestamp").to_numpy(), (_SECONDS + np.arange(_STEPS)) * 1000)
    # Again: nothing comes twice, and the source is as it was.
    assert "every point is there" in _run(*command)
    assert "nothing that has not been imported" in _run(*command, "--dry-run")
    assert {path: path.read_bytes() for path in logs.rglob("*") if path.is_file()} == before


@pytest.mark.timeout(600)
def test_what_grows_is_followed(other: RunstreamServer, tmp_path: Path) -> None:
    logs = tmp_path / "live"
    command = (
        "import",
        logs,
        "--server",
        other.url,
        "--ledger",
        tmp_path / "ledger.db",
        "--experiment",
        "live",
    )
    with SummaryWriter(str(logs), flush_secs=1) as writer:
        writer.add_scalar("loss", 0.5, 0, walltime=_SECONDS)
        writer.flush()
        following = _start(*command, "--follow", "--every", "0.2")
        try:
            _wait_for(other.url, "live", 1)
            for step in range(1, 100):
                writer.add_scalar("loss", step, step, walltime=_SECONDS + step)
            writer.flush()
            _wait_for(other.url, "live", 100)
        finally:
            following.send_signal(signal.SIGTERM)
            said, _ = following.communicate(timeout=_DEADLINE_S)
    assert following.returncode == 0, said
    assert "every point is there, bit for bit" in said


def _wait_for(server: str, experiment: str, points: int) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        try:
            with connect(server) as connection:
                if connection.get_metrics(experiment=experiment, as_="arrow").num_rows >= points:
                    return
        except Exception:
            time.sleep(0.2)  # the experiment is not there yet
    raise AssertionError(f"{points} points of {experiment} have not come")


@pytest.mark.timeout(600)
def test_out_and_in_again_is_the_same_to_the_last_bit(
    runstream_url: str, rest: Rest, other: RunstreamServer, tmp_path: Path
) -> None:
    name = f"out-{uuid.uuid4().hex[:8]}"
    experiment = rest.post("api/2.0/mlflow/experiments/create", {"name": name})["experiment_id"]
    runs = []
    bits = np.array([0x7FF8000000000001, 0xFFF8000000000000, 0x7FF0000000000000, 1, 1 << 63], np.uint64)
    for number in range(3):
        made = rest.post(
            "api/2.0/mlflow/runs/create",
            {"experiment_id": experiment, "run_name": f"run {number}", "start_time": 1_000 + number},
        )["run"]
        run_id = made["info"]["run_id"]
        runs.append(run_id)
        rest.post(
            "api/2.0/mlflow/runs/log-batch",
            {
                "run_id": run_id,
                "params": [{"key": "lr", "value": str(number)}],
                "tags": [{"key": "note", "value": "ü" * 100}],
            },
        )
        values = np.concatenate([bits.view(np.float64), np.random.default_rng(number).normal(size=500)])
        table = pa.table(
            {
                "run_id": [run_id] * len(values),
                "key": ["系列/a"] * len(values),
                "step": np.arange(len(values)) - 3,
                "timestamp": np.arange(len(values)) * 2**30,
                "value": values,
            }
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        requests.post(
            runstream_url + INGEST,
            data=sink.getvalue().to_pybytes(),
            headers={"Content-Type": ARROW},
            timeout=60,
        ).raise_for_status()
        place = f"{runstream_url}/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run_id}/artifacts/deep/a file.bin"
        requests.put(place, data=b"\0\xff" * 1000, timeout=60).raise_for_status()
        rest.post(
            "api/2.0/mlflow/runs/update", {"run_id": run_id, "status": "KILLED", "end_time": 9_000 + number}
        )
    rest.post("api/2.0/mlflow/runs/delete", {"run_id": runs[2]})

    out = tmp_path / "out"
    assert "3 runs" in _run("export", out, "--server", runstream_url, "--experiment", name)
    said = _run("import", out, "--server", other.url, "--ledger", tmp_path / "ledger.db")
    assert "every point is there, bit for bit" in said
    first, second = _points(runstream_url, runs), _points(other.url, runs)
    assert first.num_rows == 3 * 505
    for column in first.column_names:
        before, after = first.column(column).combine_chunks(), second.column(column).combine_chunks()
        if column == "value":
            assert before.to_numpy().tobytes() == after.to_numpy().tobytes()
            assert set(bits.tolist()) <= set(after.to_numpy().view(np.uint64).tolist())
        else:
            assert before.equals(after)
    with Rest(other.url) as there:
        for number, run_id in enumerate(runs):
            old, new = (one.get("api/2.0/mlflow/runs/get", run_id=run_id)["run"] for one in (rest, there))
            for fact in ("run_id", "run_name", "status", "start_time", "end_time", "lifecycle_stage"):
                assert old["info"][fact] == new["info"][fact], fact
            assert old["data"]["params"] == new["data"]["params"]
            assert {tag["key"]: tag["value"] for tag in old["data"]["tags"]} == {
                tag["key"]: tag["value"] for tag in new["data"]["tags"]
            }
            if number < 2:
                body = requests.get(
                    f"{other.url}/get-artifact",
                    params={"run_id": run_id, "path": "deep/a file.bin"},
                    timeout=60,
                )
                assert body.content == b"\0\xff" * 1000

    again = tmp_path / "again"
    _run("export", again, "--server", other.url, "--run", runs[0], "--run", runs[1], "--no-artifacts")
    exported = pq.read_table(again / "points-00000.parquet")
    assert exported.num_rows == 2 * 505
    events = tmp_path / "events"
    _run("export", events, "--server", other.url, "--run", runs[0], "--format", "tensorboard")
    said = _run(
        "import", events, "--server", other.url, "--ledger", tmp_path / "ledger.db", "--experiment", "events"
    )
    assert "every point is there, bit for bit" in said
    with connect(other.url) as connection:
        back = connection.get_metrics(experiment="events", as_="arrow")
    mine = second.filter(pa.compute.equal(second.column("run_id"), runs[0]))
    assert back.column("value").to_numpy().tobytes() == mine.column("value").to_numpy().tobytes()
    assert back.column("step").to_numpy().tobytes() == mine.column("step").to_numpy().tobytes()
    assert back.column("timestamp").to_numpy().tobytes() == mine.column("timestamp").to_numpy().tobytes()
