"""A training without a server, sent afterwards: run this, then, with a server there, what it prints."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

spool = Path(os.environ.setdefault("RUNSTREAM_SPOOL", str(Path(tempfile.gettempdir()) / "runstream-spool")))
os.environ["RUNSTREAM_OFFLINE"] = "1"
os.environ.setdefault("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")

import mlflow  # noqa: E402  # reads the variables above

mlflow.set_experiment("offline")
with mlflow.start_run(run_name="on a plane") as run:
    mlflow.log_params({"learning_rate": 0.1, "seat": "12A"})
    for step in range(1_000):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_text("no network was used", "notes.txt")

print(f"run {run.info.run_id} waits in {spool}; send it with: runstream sync {spool}")
