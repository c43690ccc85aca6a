"""Writes an MLflow database (or file store) as a real MLflow does: run as a script, with any version of MLflow.

``python old_mlflow.py URI``: prints the ids of its runs as JSON: {"runs": [...], "deleted": ..., "experiment": ...}.
"""

from __future__ import annotations

import json
import math
import sys

STEPS = 300
RUNS = 4
KEYS = ("loss", "eval/acc", "系列 a")


def value(run: int, key: str, step: int) -> float:
    """What was logged; NaN and both infinities among it."""
    special = {7: math.nan, 8: math.inf, 9: -math.inf, 10: -0.0, 11: 5e-324}
    return special.get(step, math.sin(run * 1000 + step) * (1 + len(key)))


def main(uri: str) -> None:
    import mlflow
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    mlflow.set_tracking_uri(uri)
    client = MlflowClient(uri)
    experiment = client.create_experiment("old work", tags={"team": "vision"})
    runs = []
    for number in range(RUNS):
        run = client.create_run(experiment, start_time=1_600_000_000_000 + number, run_name=f"old {number}")
        run_id = run.info.run_id
        runs.append(run_id)
        client.log_batch(
            run_id, params=[Param("lr", str(number))], tags=[RunTag("kind", "old"), RunTag("note", "ü" * 50)]
        )
        for key in KEYS:
            points = [
                Metric(key, value(number, key, step), 1_600_000_000_000 + step * 10, step - 5)
                for step in range(STEPS)
            ]
            client.log_batch(run_id, metrics=points)
        client.set_terminated(run_id, ["FINISHED", "FAILED", "KILLED", "FINISHED"][number], 1_600_000_900_000)
    client.delete_run(runs[-1])
    print(json.dumps({"runs": runs, "deleted": runs[-1], "experiment": experiment}))


if __name__ == "__main__":
    main(sys.argv[1])
