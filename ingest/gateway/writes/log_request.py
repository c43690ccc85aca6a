"""What a metric write asks for, once it is understood."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runstream.schemas.errors import MlflowError
from runstream.schemas.mlflow.values import json_number

Json = Mapping[str, object]


@dataclass(slots=True)
class LogRequest:
    """One ``log-batch`` or ``log-metric``, checked as far as that needs no database.

    ``keys``, ``steps``, ``timestamps`` (Unix, milliseconds) and ``values`` are columns of equal length: the
    points for the queue, int64 and float64 as sent. ``forward`` is a JSON body for the same endpoint of the
    MLflow server with what is its own: params, tags, and the metrics that name a model, which it records for
    the model and for the run. ``None`` if there is nothing of that.

    ``deferred_error`` is what the caller raises *after* the run is known to exist and to be active: stock
    MLflow takes such a request, keeps the half that it could read and loses the rest, and refuses it only for
    the run's sake. The columns are empty and ``forward`` is ``None`` then.
    """

    run_id: str
    keys: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    timestamps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    forward: bytes | None = None
    deferred_error: MlflowError | None = None


def forward_batch(
    run_id: str, metrics: Sequence[Json], params: Sequence[Json], tags: Sequence[Json]
) -> bytes | None:
    """The ``log-batch`` body for MLflow's own server; ``None`` if there is nothing for it."""
    if not (metrics or params or tags):
        return None
    body: dict[str, object] = {"run_id": run_id}
    if metrics:
        body["metrics"] = [forwarded_metric(metric) for metric in metrics]
    if params:
        body["params"] = list(params)
    if tags:
        body["tags"] = list(tags)
    return json.dumps(body, separators=(",", ":")).encode()


def forward_metric(run_id: str, metric: Json) -> bytes:
    """The ``log-metric`` body for MLflow's own server."""
    return json.dumps({"run_id": run_id, **forwarded_metric(metric)}, separators=(",", ":")).encode()


def forwarded_metric(metric: Json) -> dict[str, object]:
    """A metric as protobuf JSON, which has strings for what JSON's numbers cannot say."""
    value = metric["value"]
    return {**metric, "value": json_number(value) if isinstance(value, float) else value}
