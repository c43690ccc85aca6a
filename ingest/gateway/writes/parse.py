"""The two metric writes, decoded straight to columns.

Nearly every request is one that MLflow's own clients send: it is decoded here, in C, and checked column by
column. Whatever this does not take in full (unusual spellings, unknown fields, and all that is wrong) goes to
``runstream.ingest.gateway.writes.judge``, which is the whole of MLflow's rules; what this takes, that would take alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from runstream.ingest.gateway.writes.judge import judge_log_batch, judge_log_metric
from runstream.ingest.gateway.writes.log_request import LogRequest, forward_batch
from runstream.schemas.mlflow.limits import (
    INT64_MAX,
    INT64_MIN,
    MAX_ENTITIES_PER_BATCH,
    MAX_METRICS_PER_BATCH,
    MAX_PARAMS_TAGS_PER_BATCH,
)
from runstream.schemas.mlflow.names import KnownNames, is_run_id

__all__ = ["PARSERS", "LogRequest", "Parser", "parse_log_batch", "parse_log_metric"]

# The largest bodies that are understood on the event loop: about 2 ms as MLflow's clients send them, about 4 ms odd.
PLAIN_BYTES = 512 << 10
ODD_BYTES = 64 << 10
_JSON = "application/json"

_Step = Annotated[int, msgspec.Meta(ge=INT64_MIN, le=INT64_MAX)]
_Timestamp = Annotated[int, msgspec.Meta(ge=0, le=INT64_MAX)]


class _Metric(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    key: str
    value: float
    timestamp: _Timestamp
    step: _Step = 0


class _ModelMetric(_Metric, forbid_unknown_fields=True, gc=False):
    model_id: str = ""
    dataset_name: str = ""
    dataset_digest: str = ""


class _Pair(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    key: str
    value: str = ""


class _LogBatch(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    run_id: str
    metrics: list[_Metric] = []
    params: list[_Pair] = []
    tags: list[_Pair] = []


class _ModelLogBatch(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    run_id: str
    metrics: list[_ModelMetric] = []
    params: list[_Pair] = []
    tags: list[_Pair] = []


class _LogMetric(_Metric, forbid_unknown_fields=True, gc=False, kw_only=True):
    run_id: str
    run_uuid: str = ""


# Not strict: protobuf JSON may write numbers as strings, and has to for NaN and the infinities.
_BATCHES = msgspec.json.Decoder(_LogBatch, strict=False)
_MODEL_BATCHES = msgspec.json.Decoder(_ModelLogBatch, strict=False)
_METRICS = msgspec.json.Decoder(_LogMetric, strict=False)
_REFUSED = (msgspec.MsgspecError, ValueError, RecursionError)

# A memo, bounded: the names that jobs log under are few and come again with every request.
_NAMES = KnownNames()


def parse_log_batch(body: bytes, content_type: str | None) -> LogRequest:
    """Understand a ``runs/log-batch`` request; raises ``runstream.schemas.errors.MlflowError``.

    ``content_type`` is the header as sent, ``None`` if it is missing. Does not block. Costs about 0.3 ms of
    CPU for 1,000 points, some 2 ms if they name models, and some 6 ms if ``judge`` has to look.
    """
    return LOG_BATCH.whole(body, content_type)


def parse_log_metric(body: bytes, content_type: str | None) -> LogRequest:
    """Understand a ``runs/log-metric`` request, as ``parse_log_batch`` does: one point, or a ``forward``."""
    return LOG_METRIC.whole(body, content_type)


@dataclass(frozen=True, slots=True)
class Parser:
    """Both ways to understand a request: ``plain`` returns ``None`` for what it leaves to ``judge``, which knows all
    of MLflow's rules and raises ``MlflowError``."""

    plain: Callable[[bytes], LogRequest | None]
    judge: Callable[[bytes, str | None], LogRequest]

    def at_once(self, body: bytes, content_type: str | None) -> LogRequest | None:
        """The request, if that takes no more than a few milliseconds; raises ``MlflowError``."""
        if len(body) > PLAIN_BYTES:
            return None
        request = self.plain(body) if _is_json(content_type) else None
        if request is None and len(body) <= ODD_BYTES:
            return self.judge(body, content_type)
        return request

    def whole(self, body: bytes, content_type: str | None) -> LogRequest:
        """The request, however long that takes; raises ``MlflowError``."""
        request = self.plain(body) if _is_json(content_type) else None
        return self.judge(body, content_type) if request is None else request


def _is_json(content_type: str | None) -> bool:
    return content_type == _JSON or (content_type is not None and content_type.split(";")[0] == _JSON)


def _plain_log_batch(body: bytes) -> LogRequest | None:
    try:
        batch = _BATCHES.decode(body)
    except _REFUSED:
        return _parse_model_batch(body)
    return _to_columns(batch.run_id, batch.metrics, (), batch.params, batch.tags, body)


def _plain_log_metric(body: bytes) -> LogRequest | None:
    try:
        metric = _METRICS.decode(body)
    except _REFUSED:
        return None
    return _to_columns(metric.run_id, (metric,), (), (), (), body)


LOG_BATCH = Parser(_plain_log_batch, judge_log_batch)
LOG_METRIC = Parser(_plain_log_metric, judge_log_metric)
# By the name of the route.
PARSERS: Mapping[str, Parser] = {"log-batch": LOG_BATCH, "log-metric": LOG_METRIC}


def _parse_model_batch(body: bytes) -> LogRequest | None:
    try:
        batch = _MODEL_BATCHES.decode(body)
    except _REFUSED:
        return None
    if any(bool(metric.dataset_name) != bool(metric.dataset_digest) for metric in batch.metrics):
        return None
    plain = [metric for metric in batch.metrics if not metric.model_id]
    of_models = [metric for metric in batch.metrics if metric.model_id]
    return _to_columns(batch.run_id, plain, of_models, batch.params, batch.tags, body)


def _to_columns(
    run_id: str,
    metrics: Sequence[_Metric],
    of_models: Sequence[_ModelMetric],
    params: Sequence[_Pair],
    tags: Sequence[_Pair],
    body: bytes,
) -> LogRequest | None:
    """The request, if everything about it is in order."""
    keys = [metric.key for metric in metrics]
    values = [metric.value for metric in metrics]
    if not is_run_id(run_id) or len(metrics) > MAX_METRICS_PER_BATCH or not _NAMES.all_valid(keys):
        return None
    # One NaN makes the sum NaN. Infinities may, too: then the second look is for nothing.
    total = sum(values)
    if total != total and not _spells_nan_as_protobuf(body):
        return None
    forward = None
    if of_models or params or tags:
        if not _forwards_well(len(metrics), of_models, params, tags, body):
            return None
        as_json: Any = msgspec.structs.asdict
        forward = forward_batch(
            run_id,
            [as_json(metric) for metric in of_models],
            [as_json(param) for param in params],
            [as_json(tag) for tag in tags],
        )
    return LogRequest(
        run_id,
        keys,
        [metric.step for metric in metrics],
        [metric.timestamp for metric in metrics],
        values,
        forward,
    )


def _forwards_well(
    metrics: int,
    of_models: Sequence[_ModelMetric],
    params: Sequence[_Pair],
    tags: Sequence[_Pair],
    body: bytes,
) -> bool:
    param_keys = [param.key for param in params]
    metrics += len(of_models)
    return (
        metrics <= MAX_METRICS_PER_BATCH
        and max(len(params), len(tags)) <= MAX_PARAMS_TAGS_PER_BATCH
        and metrics + len(params) + len(tags) <= MAX_ENTITIES_PER_BATCH
        and _NAMES.all_valid([metric.key for metric in of_models])
        and _NAMES.all_valid(param_keys)
        and _NAMES.all_valid([tag.key for tag in tags])
        and len(set(param_keys)) == len(param_keys)
        and (all(metric.value == metric.value for metric in of_models) or _spells_nan_as_protobuf(body))
    )


def _spells_nan_as_protobuf(body: bytes) -> bool:
    """msgspec takes "nan" in every case, protobuf in every case but the lower one."""
    return b'"nan"' not in body and b"\\" not in body
