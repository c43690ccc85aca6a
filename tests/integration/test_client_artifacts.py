"""Artifacts through the server, with the stock client."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

# MLflow's own warnings, about what it infers and what it pickles, are not ours to fix.
pytestmark = pytest.mark.filterwarnings("default")


def test_runs_keep_artifacts_on_the_server(client: MlflowClient, run_id: str) -> None:
    assert client.get_run(run_id).info.artifact_uri.startswith("mlflow-artifacts:/")


def test_log_list_download(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    files = {"a.txt": b"text\n", "deep/b.bin": os.urandom(300_000), "deep/er/ü &.json": b"{}", "empty": b""}
    for name, content in files.items():
        (source / name).write_bytes(content)
    client.log_artifact(run_id, str(source / "a.txt"))
    client.log_artifacts(run_id, str(source), "tree")

    assert [(f.path, f.is_dir) for f in client.list_artifacts(run_id)] == [("a.txt", False), ("tree", True)]
    assert {(f.path, f.is_dir) for f in client.list_artifacts(run_id, "tree/deep")} == {
        ("tree/deep/b.bin", False),
        ("tree/deep/er", True),
    }
    assert next(f for f in client.list_artifacts(run_id) if f.path == "a.txt").file_size == 5

    target = tmp_path / "target"
    target.mkdir()
    path = Path(client.download_artifacts(run_id, "tree", str(target)))
    assert {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()} == files
    with pytest.raises((MlflowException, OSError)):
        client.download_artifacts(run_id, "absent.txt", str(target))


def test_text_dict_table_figureless_helpers(client: MlflowClient, run_id: str) -> None:
    client.log_text(run_id, "hällo", "notes/n.txt")
    client.log_dict(run_id, {"a": [1, 2]}, "d.json")
    client.log_table(run_id, pd.DataFrame({"x": [1, 2]}), "t.json")
    client.log_image(run_id, np.zeros((4, 4, 3), dtype=np.uint8), "i.png")

    uri = client.get_run(run_id).info.artifact_uri
    assert mlflow.artifacts.load_text(f"{uri}/notes/n.txt") == "hällo"
    assert mlflow.artifacts.load_dict(f"{uri}/d.json") == {"a": [1, 2]}
    assert mlflow.artifacts.load_image(f"{uri}/i.png").size == (4, 4)
    assert client.load_table(client.get_run(run_id).info.experiment_id, "t.json", [run_id])["x"].tolist() == [
        1,
        2,
    ]


def test_delete(client: MlflowClient, run_id: str) -> None:
    client.log_text(run_id, "1", "dir/one.txt")
    client.log_text(run_id, "2", "dir/two.txt")
    repository = get_artifact_repository(client.get_run(run_id).info.artifact_uri)

    repository.delete_artifacts("dir/one.txt")
    assert [f.path for f in client.list_artifacts(run_id, "dir")] == ["dir/two.txt"]
    repository.delete_artifacts("dir")
    assert client.list_artifacts(run_id) == []


def test_overwritten(client: MlflowClient, run_id: str) -> None:
    for text in ("first, and longer", "second"):
        client.log_text(run_id, text, "f.txt")
        uri = client.get_run(run_id).info.artifact_uri
        assert mlflow.artifacts.load_text(f"{uri}/f.txt") == text


def test_large_file(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 24
    (tmp_path / "large.bin").write_bytes(content)
    client.log_artifact(run_id, str(tmp_path / "large.bin"))
    target = tmp_path / "t"
    target.mkdir()
    assert Path(client.download_artifacts(run_id, "large.bin", str(target))).read_bytes() == content


def test_model(client: MlflowClient, experiment_id: str) -> None:
    class Doubler(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return model_input * 2

    registered = f"doubler-{uuid.uuid4().hex[:8]}"
    with mlflow.start_run(experiment_id=experiment_id) as run:
        mlflow.log_metrics({"acc": 0.25}, step=0)
        mlflow.log_metric("acc", 0.5, step=1)
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=Doubler(),
            pip_requirements=[],
            registered_model_name=registered,
            await_registration_for=30,
            step=1,
        )
    data = pd.DataFrame({"x": [1.0, 2.5]})
    for uri in (f"runs:/{run.info.run_id}/model", logged.model_uri, f"models:/{registered}/1"):
        assert mlflow.pyfunc.load_model(uri).predict(data)["x"].tolist() == [2.0, 5.0]
    files = [f.path for f in client.list_logged_model_artifacts(logged.model_id)]
    assert "MLmodel" in files
    # log_model reads the run's metrics of that step and logs them again, for the model.
    assert [(m.key, m.value, m.step) for m in client.get_logged_model(logged.model_id).metrics] == [
        ("acc", 0.5, 1)
    ]
    assert len(client.get_metric_history(run.info.run_id, "acc")) == 2


def test_sklearn_model(client: MlflowClient, experiment_id: str, tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    with mlflow.start_run(experiment_id=experiment_id) as run:
        mlflow.sklearn.log_model(
            LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0]),
            name="line",
            pip_requirements=[],
            serialization_format="pickle",
        )
    line = mlflow.sklearn.load_model(f"runs:/{run.info.run_id}/line")
    assert line.predict([[2.0]])[0] == pytest.approx(5.0)
    path = download_artifacts(f"runs:/{run.info.run_id}/line", dst_path=str(tmp_path))
    assert (Path(path) / "MLmodel").is_file()
