#!/bin/bash
# Cluster init script: installs the MLflow client that Runstream is tested with, and says early whether this node
# reaches the server. The address and the credentials come from the cluster's environment variables (cluster.json).
set -euo pipefail

/databricks/python/bin/pip install --quiet "mlflow>=3.17,<4"

if [ -n "${RUNSTREAM_WHEEL:-}" ]; then
  # The client that spools, from a wheel in the workspace or a volume: it brings crc32c and lz4.
  /databricks/python/bin/pip install --quiet "${RUNSTREAM_WHEEL}"
fi

if ! curl --fail --silent --show-error --max-time 10 "${MLFLOW_TRACKING_URI}/health" >/dev/null; then
  # Not an error: the server may come later, and MLflow's client tries again by itself.
  echo "init: ${MLFLOW_TRACKING_URI} does not answer from $(hostname)" >&2
fi
