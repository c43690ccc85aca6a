"""Stock MLflow's verdict on a metric write, for every request that the fast path leaves aside.

This follows MLflow 3.17's own steps in its own order: ``mlflow.server.handlers._log_batch`` and
``_log_metric`` with ``_get_request_message``; then the checks with which ``SqlAlchemyStore.log_batch`` and
``log_metric`` begin, up to the first that needs the database. Messages are MLflow's to the letter. Two things
differ on purpose:

- where MLflow's parser fails but MLflow goes on with the half that it had read, the request is refused. All
  of MLflow's later checks are made on that half first, as each of them may refuse it too, and the run's
  comes before ours (``LogRequest.deferred_error``);
- where stock MLflow crashes on bad input (status 500), the answer is 400 ``INVALID_PARAMETER_VALUE``.

What comes before the run's existence: for ``log-batch`` everything; for ``log-metric`` everything if it names
no model, and only the reading of the request if it does, because a model's metrics are written first: then
the rest is for the MLflow server to judge.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from runstream.ingest.gateway.writes.log_request import LogRequest, forward_batch, forward_metric
from runstream.schemas.errors import MlflowError
from runstream.schemas.mlflow import protojson
from runstream.schemas.mlflow.limits import (
    MAX_ENTITIES_PER_BATCH,
    MAX_METRICS_PER_BATCH,
    MAX_PARAMS_TAGS_PER_BATCH,
)
from runstream.schemas.mlflow.names import check_length, check_name, invalid_value, is_run_id
from runstream.schemas.mlflow.protojson import UnreadableError

__all__ = ["check_content_type", "check_limits", "judge_log_batch", "judge_log_metric"]

_SEE_DOCS = " See the API docs for more information about request parameters."
_NOT_JSON = "The request body is not valid JSON."
_NOT_AN_OBJECT = "The request body must be a JSON object."
# MAX_BATCH_LOG_REQUEST_SIZE, which MLflow compares with the length of the parsed JSON value, not of its text.
_MAX_JSON_LENGTH = 1_000_000

_MOST = {
    "metrics": MAX_METRICS_PER_BATCH,
    "params": MAX_PARAMS_TAGS_PER_BATCH,
    "tags": MAX_PARAMS_TAGS_PER_BATCH,
}

_Fields = dict[str, Any]


def judge_log_batch(body: bytes, content_type: str | None) -> LogRequest:
    """``runs/log-batch`` as stock MLflow takes it; raises ``MlflowError``."""
    check_content_type(content_type)
    try:
        return _judge_log_batch(_load(body))
    except RecursionError:
        raise MlflowError("The request body is nested too deeply.") from None


def judge_log_metric(body: bytes, content_type: str | None) -> LogRequest:
    """``runs/log-metric`` as stock MLflow takes it; raises ``MlflowError``."""
    check_content_type(content_type)
    try:
        return _judge_log_metric(_load(body))
    except RecursionError:
        raise MlflowError("The request body is nested too deeply.") from None


def check_content_type(content_type: str | None) -> None:
    """``mlflow.server.validation._validate_content_type``."""
    if content_type is None:
        raise MlflowError("Bad Request. Content-Type header is missing.")
    if content_type.split(";")[0] != "application/json":
        raise MlflowError("Bad Request. Content-Type must be one of ['application/json'].")


def _load(body: bytes) -> object:
    """The JSON value, ``None`` for what is not JSON (Flask's ``get_json(silent=True)``)."""
    try:
        value: object = json.loads(body)
    except ValueError:
        return None
    return value


def _object(value: object) -> Mapping[str, Any]:
    """The JSON object that a request is: old clients encode it twice, and none at all counts as empty."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise MlflowError(_NOT_JSON) from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MlflowError(_NOT_AN_OBJECT)
    return value


def _read(js: Mapping[str, Any], message: protojson.Message) -> tuple[_Fields, MlflowError | None]:
    """The fields that could be read, and what stopped the reading, if anything did."""
    protojson.refuse_two_spellings(js, message)
    fields: _Fields = {}
    try:
        protojson.read_message(js, message, fields)
    except UnreadableError as stopped:
        if stopped.crash:
            raise stopped.error() from None
        return fields, stopped.error()
    return fields, None


# --- log-batch


def _judge_log_batch(value: object) -> LogRequest:
    if value is None:
        raise MlflowError(_NOT_JSON)
    if isinstance(value, str | list | dict) and len(value) > _MAX_JSON_LENGTH:
        raise MlflowError(
            f"Batched logging API requests must be at most {_MAX_JSON_LENGTH} bytes, got a request of size"
            f" {len(value)}."
        )
    js, counts = _counted(_object(value))
    fields, error = _read(js, protojson.LOG_BATCH)
    _check_schema(js, _BATCH_SCHEMA, readable=error is None)

    run_id: str = fields.get("run_id", "")
    metrics = [_metric(metric) for metric in fields.get("metrics", ())]
    params = [_pair(param) for param in fields.get("params", ())]
    tags = [_pair(tag) for tag in fields.get("tags", ())]
    for metric in metrics:
        _check_dataset(metric)
    if not is_run_id(run_id):
        raise invalid_value("run_id", run_id)
    for index, metric in enumerate(metrics):
        _check_metric(metric, f"metrics[{index}].")
    for index, param in enumerate(params):
        check_name(param["key"], f"params[{index}].key")
        check_length("Param key", param["key"])
    for index, tag in enumerate(tags):
        check_name(tag["key"], f"tags[{index}].key")
        check_length(f"tags[{index}].key", tag["key"])
    if error is None:
        check_limits(*(counts.get(name, 0) for name in ("metrics", "params", "tags")))
    else:
        check_limits(len(metrics), len(params), len(tags))
    _check_param_keys(params)
    if error is not None:
        return LogRequest(run_id, deferred_error=error)

    request = LogRequest(run_id)
    for metric in metrics:
        if not metric["model_id"]:
            _add(request, metric)
    of_models = [metric for metric in metrics if metric["model_id"]]
    request.forward = forward_batch(run_id, of_models, params, tags)
    return request


def _counted(js: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, int]]:
    """How long the lists of a batch are, and the batch without what is beyond its limits: it will be refused, and how
    far its items are looked at before must not depend on how many there are."""
    counts = {name: len(js[name]) for name in _MOST if isinstance(js.get(name), list)}
    beyond = {name: js[name][: _MOST[name] + 1] for name, count in counts.items() if count > _MOST[name]}
    return {**js, **beyond}, counts


def check_limits(metrics: int, params: int, tags: int) -> None:
    """``_validate_batch_log_limits``: how much one batch may hold."""
    for what, limit, count in (
        ("metrics", MAX_METRICS_PER_BATCH, metrics),
        ("params", MAX_PARAMS_TAGS_PER_BATCH, params),
        ("tags", MAX_PARAMS_TAGS_PER_BATCH, tags),
        ("metrics, params, and tags", MAX_ENTITIES_PER_BATCH, metrics + params + tags),
    ):
        if count > limit:
            raise MlflowError(
                f"A batch logging request can contain at most {limit} {what}. Got {count} {what}. Please"
                f" split up {what} across multiple requests and try again."
            )


def _check_param_keys(params: list[_Fields]) -> None:
    seen: set[str] = set()
    repeated: list[str] = []
    for param in params:
        if param["key"] in seen:
            repeated.append(param["key"])
        seen.add(param["key"])
    if repeated:
        raise MlflowError(
            f"Duplicate parameter keys have been submitted: {repeated}. Please ensure the request contains"
            " only one param value per param key."
        )


# --- log-metric


def _judge_log_metric(value: object) -> LogRequest:
    js = _object(value)
    fields, error = _read(js, protojson.LOG_METRIC)
    _check_schema(js, _METRIC_SCHEMA, readable=error is None)

    metric = _metric(fields)
    _check_dataset(metric)
    run_id: str = fields.get("run_id") or fields.get("run_uuid", "")
    if metric["model_id"]:
        if error is not None:
            return LogRequest(run_id, deferred_error=error)
        return LogRequest(run_id, forward=forward_metric(run_id, metric))
    _check_metric(metric, "")
    if not is_run_id(run_id):
        # log-batch, by which the gateway asks for a run, checks an id's form; log-metric does not.
        raise MlflowError(f"Run with id={run_id} not found", "RESOURCE_DOES_NOT_EXIST")
    request = LogRequest(run_id, deferred_error=error)
    if error is None:
        _add(request, metric)
    return request


# --- both


def _metric(fields: _Fields) -> _Fields:
    """A metric with the defaults that an unset protobuf field has."""
    metric: _Fields = {
        "key": fields.get("key", ""),
        "value": fields.get("value", 0.0),
        "timestamp": fields.get("timestamp", 0),
        "step": fields.get("step", 0),
    }
    for name in ("model_id", "dataset_name", "dataset_digest"):
        metric[name] = fields.get(name, "")
    return metric


def _pair(fields: _Fields) -> _Fields:
    return {"key": fields.get("key", ""), "value": fields.get("value", "")}


def _add(request: LogRequest, metric: _Fields) -> None:
    request.keys.append(metric["key"])
    request.steps.append(metric["step"])
    request.timestamps.append(metric["timestamp"])
    request.values.append(metric["value"])


def _check_dataset(metric: _Fields) -> None:
    if bool(metric["dataset_name"]) != bool(metric["dataset_digest"]):
        raise MlflowError("Both dataset_name and dataset_digest must be provided if one is provided")


def _check_metric(metric: _Fields, path: str) -> None:
    key, value, timestamp = metric["key"], metric["value"], metric["timestamp"]
    check_name(key, f"{path}name")
    if timestamp < 0:
        raise invalid_value(
            f"{path}timestamp",
            timestamp,
            f"metric '{key}' (value={value}). Timestamp must be a nonnegative long (64-bit integer) ",
        )
    check_length("Metric name", key)


# --- the schema of a request: handlers._validate_param_against_schema

_Check = Callable[[str, Any], None]


def _missing(path: str) -> MlflowError:
    return MlflowError(f"Missing value for required parameter '{path}'.{_SEE_DOCS}")


def _wrong_type(path: str, value: object) -> MlflowError:
    error = invalid_value(path, value, f" Hint: Value was of type '{type(value).__name__}'.")
    return MlflowError(error.message + _SEE_DOCS)


def _is_required(path: str, value: Any) -> None:
    if value is None or value == "":
        raise _missing(path)


def _is_string(path: str, value: Any) -> None:
    if not isinstance(value, str):
        raise _wrong_type(path, value)


def _is_intlike(path: str, value: Any) -> None:
    try:
        int(value)
    except (ValueError, TypeError, OverflowError):
        raise _wrong_type(path, value) from None


def _is_floatlike(path: str, value: Any) -> None:
    try:
        float(value)
    except (ValueError, TypeError, OverflowError):
        raise _wrong_type(path, value) from None


def _is_array(path: str, value: Any) -> None:
    if not isinstance(value, list):
        raise _wrong_type(path, value)


def _have(*required: str) -> _Check:
    """Every item of an array has these."""

    def check(path: str, value: Any) -> None:
        _is_array(path, value)
        for index, item in enumerate(value):
            if not isinstance(item, dict):
                raise _wrong_type(f"{path}[{index}]", item)
            for name in required:
                if item.get(name) is None or item[name] == "":
                    raise _missing(f"{path}[{index}].{name}")

    return check


# If the reading succeeded, MLflow takes the types for right.
_OF_TYPE = {_is_string, _is_intlike, _is_floatlike, _is_array}

_METRIC_SCHEMA: dict[str, tuple[_Check, ...]] = {
    "run_id": (_is_required, _is_string),
    "key": (_is_required, _is_string),
    "value": (_is_required, _is_floatlike),
    "timestamp": (_is_intlike, _is_required),
    "step": (_is_intlike,),
    "model_id": (_is_string,),
    "dataset_name": (_is_string,),
    "dataset_digest": (_is_string,),
}
_BATCH_SCHEMA: dict[str, tuple[_Check, ...]] = {
    "run_id": (_is_string, _is_required),
    "metrics": (_is_array, _have("key", "value", "timestamp")),
    "params": (_is_array, _have("key")),
    "tags": (_is_array, _have("key")),
}


def _check_schema(js: Mapping[str, Any], schema: Mapping[str, tuple[_Check, ...]], *, readable: bool) -> None:
    for name, checks in schema.items():
        if name not in js and _is_required not in checks:
            continue
        value = js.get(name)
        if name == "run_id" and value is None:
            value = js.get("run_uuid")
        for check in checks:
            if not (readable and check in _OF_TYPE):
                check(name, value)
