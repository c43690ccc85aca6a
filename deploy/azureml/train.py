"""A training job on Azure ML that logs to Runstream instead of the workspace."""

import math
import os

import mlflow


def log_to_runstream() -> None:
    """Point MLflow at Runstream, whatever Azure ML has set for this job.

    Azure ML gives a job the workspace's address, a token for it, and a run that exists only there: the token must
    not go to another server, and a run that it does not know cannot be continued.
    """
    for name in (
        "MLFLOW_TRACKING_TOKEN",
        "MLFLOW_RUN_ID",
        "MLFLOW_EXPERIMENT_ID",
        "MLFLOW_EXPERIMENT_NAME",
    ):
        os.environ.pop(name, None)
    for name in ("USERNAME", "PASSWORD"):
        value = os.environ.get(f"LOG_TO_{name}")
        if value:
            os.environ[f"MLFLOW_TRACKING_{name}"] = value
    mlflow.set_tracking_uri(os.environ["LOG_TO_URI"])


def main() -> None:
    """Log a run of 100 steps."""
    log_to_runstream()
    mlflow.set_experiment("azureml-example")
    with mlflow.start_run() as run:
        mlflow.set_tag("azureml.job", os.environ.get("AZUREML_RUN_ID", "local"))
        mlflow.log_params({"learning_rate": 0.1, "epochs": 100})
        for step in range(100):
            loss = math.exp(-step / 30)
            mlflow.log_metrics({"train/loss": loss, "train/accuracy": 1 - loss}, step=step)
    print(run.info.run_id)


if __name__ == "__main__":
    main()
