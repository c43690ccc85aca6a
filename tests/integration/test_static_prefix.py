"""Everything below a path, as behind a reverse proxy: MLflow's ``--static-prefix``."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import mlflow
import requests

import runstream
from support.runstream_server import RunstreamServer


def test_everything_is_below_the_prefix_too(tmp_path: Path) -> None:
    # It begins as the page's own address does: the one must not be taken for the other.
    with RunstreamServer(tmp_path / "data", environment={"RUNSTREAM_STATIC_PREFIX": "/run"}) as server:
        url = f"{server.url}/run"
        client = mlflow.MlflowClient(url)
        experiment = client.create_experiment(uuid.uuid4().hex)
        run = client.create_run(experiment)
        for step in range(20):
            client.log_metric(run.info.run_id, "loss", 1 / (step + 1), step=step)
        client.log_text(run.info.run_id, "words", "notes.txt")
        assert client.get_run(run.info.run_id).data.metrics == {"loss": 1 / 20}
        assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == list(range(20))
        assert [entry.path for entry in client.list_artifacts(run.info.run_id)] == ["notes.txt"]
        with runstream.connect(url) as connection:
            assert len(connection.get_metrics(run.info.run_id)) == 20
            assert connection.get_details()["ready"]
            assert connection.get_details()["mlflow_version"] == mlflow.__version__
            assert connection.get_run(run.info.run_id).get_metrics()["loss"][0] == 1.0
        page = requests.get(f"{url}/runstream", timeout=30)
        assert page.url == f"{url}/runstream/"
        scripts = re.findall(r'<script[^>]* src="([^"]+)"', page.text)
        assert scripts
        for script in scripts:
            assert script.startswith("/run/runstream/")
            assert requests.get(server.url + script, timeout=30).status_code == 200
        assert requests.get(f"{url}/", timeout=30).status_code == 200
        # Runstream's own routes are also where they always are.
        for path in ("/runstream/", "/api/1.0/runstream/openapi.json", "/health", "/ready", "/metrics"):
            assert requests.get(f"{server.url}{path}", timeout=30).status_code == 200, path
