# Databricks notebook source
# MAGIC %md
# MAGIC # Training that logs to Runstream
# MAGIC The cluster's environment (`cluster.json`) names the server and the credentials; nothing else differs from
# MAGIC logging to Databricks' own MLflow.

# COMMAND ----------

import math
import os

import mlflow

# Databricks' runtime points MLflow at the workspace; the cluster's variable points it at Runstream.
mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
mlflow.set_registry_uri(os.environ.get("MLFLOW_REGISTRY_URI", os.environ["MLFLOW_TRACKING_URI"]))
mlflow.set_experiment("databricks-example")

# COMMAND ----------

with mlflow.start_run() as run:
    mlflow.log_params({"learning_rate": 0.1, "epochs": 100})
    for step in range(100):
        loss = math.exp(-step / 30)
        mlflow.log_metrics({"train/loss": loss, "train/accuracy": 1 - loss}, step=step)

mlflow.flush_async_logging()
print(run.info.run_id)
