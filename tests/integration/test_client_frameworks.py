"""Frameworks that log to MLflow by themselves go through the spool: what they log, and nothing else, arrives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.environments import ROOT, Environment, built_wheel
from support.mlflow_client import Rest
from support.runstream_server import RunstreamServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# The last PyTorch whose wheel on the registry is complete without gigabytes of CUDA, and what goes with it.
TORCH = ("torch==1.12.1", "numpy<2", "mlflow==2.22.5", "setuptools<80")
FRAMEWORKS = {
    "lightning": (*TORCH, "lightning==2.0.9.post0"),
    "transformers": (*TORCH, "transformers==4.30.2", "accelerate==0.20.3"),
}


def trained(
    python: Path | str, what: str, url: str, folder: Path, **environment: str
) -> dict[str, dict[str, list[list[float]]]]:
    """What a training of this framework has logged: run, key, steps and values."""
    out = folder / "logged.json"
    known = {key: value for key, value in os.environ.items() if not key.startswith(("RUNSTREAM_", "MLFLOW_"))}
    done = subprocess.run(
        [str(python), ROOT / "tests" / "support" / "framework_training.py", what, str(out)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={
            **known,
            "MLFLOW_TRACKING_URI": url,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "GIT_PYTHON_REFRESH": "quiet",
            "CUDA_VISIBLE_DEVICES": "",
            **environment,
        },
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "SpoolWarning" not in done.stderr, done.stderr
    logged: dict[str, dict[str, list[list[float]]]] = json.loads(out.read_text())
    return logged


def check(rest: Rest, logged: dict[str, dict[str, list[list[float]]]]) -> None:
    assert logged
    for run_id, metrics in logged.items():
        run = rest.get("api/2.0/mlflow/runs/get", run_id=run_id)["run"]
        assert run["info"]["status"] == "FINISHED"
        assert run["data"]["params"]
        assert {metric["key"] for metric in run["data"]["metrics"]} == set(metrics)
        for key, points in metrics.items():
            found = sorted([int(point["step"]), float(point["value"])] for point in rest.history(run_id, key))
            assert found == sorted(points), (run_id, key)


def test_autologging_of_scikit_learn(runstream_server: RunstreamServer, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    logged = trained(sys.executable, "sklearn", runstream_server.url, tmp_path, RUNSTREAM_SPOOL=str(spool))
    check(Rest(runstream_server.url), logged)
    assert list(spool.rglob("*.rsf")) == []


@pytest.mark.slow_suite
@pytest.mark.parametrize("what", list(FRAMEWORKS))
def test_frameworks_on_pytorch(runstream_server: RunstreamServer, tmp_path: Path, what: str) -> None:
    made = Environment(tmp_path / "environment", "3.10", built_wheel(tmp_path / "dist"), *FRAMEWORKS[what])
    spool = tmp_path / "spool"
    logged = trained(made.python, what, runstream_server.url, tmp_path, RUNSTREAM_SPOOL=str(spool))
    check(Rest(runstream_server.url), logged)
    assert list(spool.rglob("*.rsf")) == []
