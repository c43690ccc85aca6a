"""The five lines of a first run: start ``runstream serve``, then this."""

import mlflow

mlflow.set_tracking_uri("http://127.0.0.1:5000")
with mlflow.start_run() as run:
    for step in range(100):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    print(mlflow.get_run(run.info.run_id).data.metrics)
