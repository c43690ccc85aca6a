"""Limits that MLflow sets on the metric plane (``mlflow.utils.validation``, 3.17)."""

from __future__ import annotations

MAX_METRICS_PER_BATCH = 1000
MAX_PARAMS_TAGS_PER_BATCH = 100
MAX_ENTITIES_PER_BATCH = 1000
MAX_KEY_LENGTH = 250
MAX_HISTORY_BULK = 25_000
MAX_HISTORY_BULK_RUNS = 100
MAX_INTERVAL_POINTS = 2_500

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1

# MLflow shows infinities as the largest doubles, because SQL databases cannot hold them
# (SqlAlchemyStore.sanitize_metric_value).
MAX_DOUBLE = 1.7976931348623157e308
