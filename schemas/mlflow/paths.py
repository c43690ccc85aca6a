"""Where MLflow's REST API is."""

from __future__ import annotations

API = "/api/2.0/mlflow"
AJAX_API = "/ajax-api/2.0/mlflow"
# Both hold the same routes: clients use the first, MLflow's pages the second.
APIS = (API, AJAX_API)

ARTIFACTS_API = "/api/2.0/mlflow-artifacts"
ARTIFACTS_APIS = (ARTIFACTS_API, "/ajax-api/2.0/mlflow-artifacts")
