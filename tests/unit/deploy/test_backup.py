"""Back-up and restore of the embedded folder, as docs/guides/operations.md describes them."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlflow

from support.runstream_server import RunstreamServer


def test_a_copied_folder_holds_everything(tmp_path: Path) -> None:
    with RunstreamServer(tmp_path / "data") as server:
        client = mlflow.MlflowClient(server.url)
        run_id = client.create_run("0").info.run_id
        for step in range(10):
            client.log_metric(run_id, "loss", 1 / (step + 1), step=step)
    # As `cp -a` does: the links in ClickHouse's folder stay links.
    shutil.copytree(tmp_path / "data", tmp_path / "restored", symlinks=True)
    shutil.rmtree(tmp_path / "restored" / "run", ignore_errors=True)
    shutil.rmtree(tmp_path / "data")
    with RunstreamServer(tmp_path / "restored") as server:
        client = mlflow.MlflowClient(server.url)
        assert [point.step for point in client.get_metric_history(run_id, "loss")] == list(range(10))
        assert client.get_run(run_id).data.metrics == {"loss": 0.1}
