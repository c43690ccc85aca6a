"""What a user does with artifacts, by the stock MLflow client alone; run as a script against some servers.

Arguments: a JSON list of ``{"url", "direct"}``. Ends with status 0 if all of it went well. It is a process of its own
because MLflow keeps the server's address, and its settings, for the whole process.
"""

from __future__ import annotations

import filecmp
import json
import os
import sys
import tempfile
from pathlib import Path

PART = 5 << 20


def scenario(url: str, *, direct_location: str | None, big: int) -> None:
    """One server's turn. With ``direct_location`` runs keep their artifacts there, past the server."""
    import mlflow
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    mlflow.set_tracking_uri(url)
    mlflow.set_registry_uri(url)
    name = f"artifacts-{os.urandom(4).hex()}"
    location = f"{direct_location}/{name}" if direct_location else None
    mlflow.set_experiment(experiment_id=mlflow.create_experiment(name, artifact_location=location))
    folder = Path(tempfile.mkdtemp())
    tree = folder / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    files = {
        "a.txt": b"text\n",
        "deep/b.bin": os.urandom(300_000),
        "deep/er/ü & 100% (1)+2.json": b"{}",
        "empty": b"",
        "big.bin": os.urandom(big),
    }
    for path, content in files.items():
        (tree / path).write_bytes(content)

    with mlflow.start_run() as run:
        mlflow.log_artifact(str(tree / "a.txt"))
        mlflow.log_artifacts(str(tree), "tree")
        mlflow.log_text("hällo", "notes/n.txt")
        mlflow.log_dict({"a": [1, 2]}, "d.json")
        mlflow.log_dict({"a": [1, 2]}, "d.yaml")
        mlflow.log_table(pd.DataFrame({"x": [1, 2]}), "t.json")
        mlflow.log_table(pd.DataFrame({"x": [3]}), "t.json")
        mlflow.log_image(np.zeros((4, 4, 3), dtype=np.uint8), "i.png")
        mlflow.log_image(np.zeros((4, 4, 3), dtype=np.uint8), key="seen/by", step=20)
        figure = Figure()
        figure.add_subplot().plot([1, 2, 1])
        mlflow.log_figure(figure, "f.png")

        class Doubler(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined, unused-ignore]
            def predict(self, model_input: list[float]) -> list[float]:
                return [2 * one for one in model_input]

        model = mlflow.pyfunc.log_model(
            name="doubler", python_model=Doubler(), pip_requirements=[], registered_model_name=name
        )

    uri = run.info.artifact_uri
    assert uri.startswith(direct_location or "mlflow-artifacts:/"), uri
    client = mlflow.MlflowClient()
    listed = {(f.path, f.is_dir, f.file_size) for f in client.list_artifacts(run.info.run_id)}
    assert ("a.txt", False, 5) in listed, listed
    assert ("tree", True, None) in listed, listed
    assert client.list_artifacts(run.info.run_id, "a.txt") == []
    assert client.list_artifacts(run.info.run_id, "absent") == []

    got = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="tree"))
    assert {str(f.relative_to(got)) for f in got.rglob("*") if f.is_file()} == set(files)
    match, mismatch, errors = filecmp.cmpfiles(tree, got, list(files), shallow=False)
    assert (mismatch, errors) == ([], []), (match, mismatch, errors)
    assert mlflow.artifacts.load_text(f"{uri}/notes/n.txt") == "hällo"
    assert mlflow.artifacts.load_dict(f"{uri}/d.json") == {"a": [1, 2]}
    assert mlflow.artifacts.load_image(f"{uri}/i.png").size == (4, 4)
    assert mlflow.load_table("t.json", run_ids=[run.info.run_id])["x"].tolist() == [1, 2, 3]
    images = [f.path for f in client.list_artifacts(run.info.run_id, "images")]
    assert len(images) == 2, images
    for image in images:
        client.download_artifacts(run.info.run_id, image, str(folder))

    for model_uri in (model.model_uri, f"models:/{name}/1"):
        loaded = mlflow.pyfunc.load_model(model_uri)
        assert loaded.predict([1.5, 2.0]) == [3.0, 4.0]

    try:
        client.download_artifacts(run.info.run_id, "absent.txt", str(folder))
    except Exception:
        pass
    else:
        raise AssertionError("what is absent was downloaded")

    repository = get_artifact_repository(uri)
    repository.delete_artifacts("tree/deep")
    # (An object store's directory ends with its last object; some go on listing it for a while.)
    assert [f.path for f in repository.list_artifacts("tree/deep") if not f.is_dir] == []
    assert repository.list_artifacts("tree")
    mlflow.log_text("again", "a.txt", run_id=run.info.run_id)
    assert mlflow.artifacts.load_text(f"{uri}/a.txt") == "again"


def main() -> None:
    """Every server of the arguments."""
    for server in json.loads(sys.argv[1]):
        scenario(server["url"], direct_location=server.get("direct_location"), big=3 * PART + 1234)
        print("fine:", server, flush=True)


if __name__ == "__main__":
    main()
