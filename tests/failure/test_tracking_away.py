"""MLflow's server hangs, and a training begins, runs and ends: nothing of it needs that server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from support.mlflow_versions import installed
from support.runstream_server import RunstreamServer

# What a training does through MLflow's own client, each call once, without a second try.
_TRAINING = """
import sys, time, mlflow
import requests.sessions
from mlflow import MlflowClient
longest = (0.0, "")
send = requests.sessions.Session.send
def timed(self, request, **options):
    global longest
    begun = time.monotonic()
    try:
        return send(self, request, **options)
    finally:
        longest = max(longest, (time.monotonic() - begun, request.path_url))
requests.sessions.Session.send = timed
mlflow.set_tracking_uri(sys.argv[1])
client = MlflowClient()
mlflow.set_experiment("away")
with mlflow.start_run(run_name="parent", tags={"a": "b"}) as parent:
    mlflow.log_params({f"p{number}": number for number in range(50)})
    mlflow.log_param("one", 1)
    mlflow.set_tag("stage", "training")
    for step in range(20):
        mlflow.log_metrics({"loss": 1 / (step + 1), "acc": step / 20}, step=step)
    mlflow.log_metric("single", 0.5)
    with mlflow.start_run(nested=True) as child:
        mlflow.log_metric("loss", 2.0)
    mlflow.log_text("hello", "notes/hello.txt")
    assert mlflow.artifacts.load_text(parent.info.artifact_uri + "/notes/hello.txt") == "hello"
wanted = "params.p7 = '7' AND metrics.loss < 0.1"
found = client.search_runs([parent.info.experiment_id], wanted, order_by=["metrics.acc"])
assert [run.info.run_id for run in found] == [parent.info.run_id]
assert [item.path for item in client.list_artifacts(parent.info.run_id, "notes")] == ["notes/hello.txt"]
run = client.get_run(parent.info.run_id)
assert run.info.status == "FINISHED" and run.data.params["p49"] == "49"
assert run.data.metrics == {"loss": 0.05, "acc": 0.95, "single": 0.5}, run.data.metrics
assert run.data.tags["stage"] == "training"
assert len(client.get_metric_history(parent.info.run_id, "loss")) == 20
assert client.get_run(child.info.run_id).data.tags["mlflow.parentRunId"] == parent.info.run_id
client.update_run(parent.info.run_id, name="renamed")
client.set_terminated(parent.info.run_id, "FAILED")
assert client.get_run(parent.info.run_id).info.run_name == "renamed"
print(f"MLflow {mlflow.__version__}, longest wait {longest[0]:.2f} s for {longest[1]}")
print("trained")
"""


@pytest.mark.parametrize(
    "version",
    [None, *(pytest.param(one, marks=pytest.mark.slow_suite) for one in ("2.22.2", "3.18.0"))],
    ids=["own client", "2.22", "3.18"],
)
def test_a_training_without_mlflows_server(
    make_server: Callable[..., RunstreamServer], tmp_path: Path, version: str | None
) -> None:
    path = {} if version is None else {"PYTHONPATH": str(installed(version, tmp_path, alone=version < "3"))}
    server = make_server(workers=2).start()
    tracking = server.processes()["tracking"]
    # Frozen: whoever asks it anything hangs, and finds out.
    tracking.suspend()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRAINING, server.url],
            env={
                **os.environ,
                **path,
                "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
                "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "GIT_PYTHON_REFRESH": "quiet",
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert away(server.url) == "tracking"
    finally:
        tracking.resume()
    print(done.stdout)
    assert done.stdout.strip().endswith("trained"), done.stderr[-4000:]


def away(url: str) -> str:
    """What ``/ready`` says is away; it says so long before the question to a part that hangs would be given up."""
    answer = requests.get(f"{url}/ready", timeout=20)
    assert answer.status_code == 503
    return answer.text.removeprefix("away: ").strip()
