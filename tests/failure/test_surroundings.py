"""`runstream serve` where users start it: folders of all names, modules of all names beside it, the documentation."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from support.mlflow_client import Rest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
WITHIN_S = 120.0
# What means something in a URL, in SQLAlchemy's, in chDB's; and letters beyond ASCII.
ODD = "exp #1 50%25 a&b=c ü"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@contextmanager
def started(script: str, folder: Path, **environment: str) -> Iterator[str]:
    """The address that a shell script's server announces; it runs in ``folder``, with this Python's programs."""
    log = folder / "serve.log"
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["/bin/bash", "-ec", script.replace("runstream serve", "exec runstream serve")],
            cwd=folder,
            env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "RUNSTREAM_PORT": "0", **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + WITHIN_S
        while (
            found := re.search(r"runstream ready at (http://\S+)", log.read_text(errors="replace"))
        ) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield found[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(WITHIN_S) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def test_folders_of_all_names_beside_modules_of_all_names(tmp_path: Path) -> None:
    place = tmp_path / "work"
    place.mkdir()
    for name in ("schemas", "query", "ingest", "mlflow", "runstream", "chdb", "uvicorn", "statistics"):
        (place / f"{name}.py").write_text("raise ImportError('a file of the user')\n")
    data = place / ODD / "data"
    with started('runstream serve --data-dir "$DATA"', place, DATA=str(data)) as url, Rest(url) as rest:
        run_id = rest.post("api/2.0/mlflow/runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"]
        rest.post(
            "api/2.0/mlflow/runs/log-metric",
            {"run_id": run_id, "key": "m", "value": 1.5, "timestamp": 1, "step": 1},
        )
        assert [point["value"] for point in rest.history(run_id, "m")] == [1.5]
    assert {entry.name for entry in data.iterdir()} >= {"log", "clickhouse", "mlflow.db", "artifacts"}
    assert list((data / "log").glob("stream-*"))
    assert (data / "clickhouse" / "store").is_dir()
    # Nothing has gone to a place that a part of the name leads to.
    assert [entry.name for entry in (place / ODD).iterdir()] == ["data"]
    # Nothing but an empty folder, that is, which MLflow makes where it takes SQLAlchemy's URL for a path.
    strays = [entry for entry in place.iterdir() if entry.name.startswith("exp") and entry.name != ODD]
    assert [path for stray in strays for path in stray.rglob("*") if not path.is_dir()] == []
    looked = subprocess.run(
        [BIN / "runstream", "doctor", "--data-dir", data],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    assert looked.returncode == 0, looked.stdout + looked.stderr
    assert "Everything that was tried works." in looked.stdout
    assert "not tried" not in looked.stdout


def test_the_recipe_for_users(tmp_path: Path) -> None:
    """What docs/guides/deploy.md says about basic-auth on one machine, word for word."""
    text = (ROOT / "docs" / "guides" / "deploy.md").read_text()
    found = re.search(r"On one machine:\n\n((?: {6}.*\n)+)", text)
    assert found is not None
    with started(found[1], tmp_path) as url:
        create = f"{url}/api/2.0/mlflow/experiments/create"
        assert requests.post(create, json={"name": "of nobody"}, timeout=60).status_code == 401
        password = re.search(r"MLFLOW_AUTH_ADMIN_PASSWORD=(\S+)", found[1])
        assert password is not None
        admin = ("admin", password[1])
        assert requests.post(create, json={"name": "mine"}, auth=admin, timeout=60).status_code == 200
