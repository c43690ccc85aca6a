"""Parameters of MLflow's metric-history requests, with MLflow 3.17's verdicts on wrong ones.

The rules are those of ``mlflow.server.handlers``: a GET's query is turned into a protobuf message; if that
fails at one field, the fields declared after it are lost, and the types are checked one by one. Every check
below raises ``MlflowError``. Where stock MLflow answers 500 to a bad parameter, this answers 400.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from runstream.schemas.errors import MlflowError
from runstream.schemas.mlflow.limits import (
    INT64_MAX,
    INT64_MIN,
    MAX_HISTORY_BULK,
    MAX_HISTORY_BULK_RUNS,
    MAX_INTERVAL_POINTS,
)

_SEE_DOCS = " See the API docs for more information about request parameters."


class Query(Protocol):
    """The query of a URL: the first value of a name, or all of them."""

    def __contains__(self, name: object) -> bool: ...
    def __len__(self) -> int: ...
    def get(self, name: str) -> str | None:
        """The first value, or ``None``."""
        ...

    def getall(self, name: str) -> list[str]:
        """Every value, in order."""
        ...


@dataclass(frozen=True, slots=True)
class HistoryRequest:
    """``metrics/get-history``."""

    run_id: str
    key: str
    max_results: int | None
    page_token: str | None


@dataclass(frozen=True, slots=True)
class BulkRequest:
    """``metrics/get-history-bulk``. A negative ``max_results`` leaves out that many at the end, as on
    SQLite."""

    run_ids: list[str]
    key: str
    max_results: int


@dataclass(frozen=True, slots=True)
class IntervalRequest:
    """``metrics/get-history-bulk-interval``; the steps are both given or both ``None``."""

    run_ids: list[str]
    key: str
    max_results: int
    start_step: int | None
    end_step: int | None


def parse_history(query: Query, body: bytes = b"") -> HistoryRequest:
    """The request of a query, or of a JSON body if the query is empty."""
    fields = _fields(query, body, ("run_id", "run_uuid", "metric_key", "page_token", "max_results"))
    parsed = _as_message(
        fields,
        {"run_id": _text, "run_uuid": _text, "metric_key": _text, "page_token": _text, "max_results": _int32},
    )
    types_known = len(parsed) == len(fields)
    run_id = (
        fields["run_uuid"] if fields.get("run_id") is None and "run_uuid" in fields else fields.get("run_id")
    )
    _check_text("run_id", run_id, types_known, required=True)
    _check_text("metric_key", fields.get("metric_key"), types_known, required=True)
    if "page_token" in fields:
        _check_text("page_token", fields["page_token"], types_known)
    max_results = parsed.get("max_results")
    if max_results is not None and max_results <= 0:
        raise MlflowError(
            f"Invalid value {max_results} for parameter 'max_results' supplied."
            " It must be a positive integer."
        )
    return HistoryRequest(
        parsed.get("run_id") or parsed.get("run_uuid") or "",
        parsed.get("metric_key") or "",
        max_results,
        parsed.get("page_token") or None,
    )


def parse_bulk(query: Query) -> BulkRequest:
    """The request of a query."""
    run_ids = query.getall("run_id") if "run_id" in query else []
    if not run_ids:
        raise MlflowError("GetMetricHistoryBulk request must specify at least one run_id.")
    if len(run_ids) > MAX_HISTORY_BULK_RUNS:
        raise MlflowError(
            f"GetMetricHistoryBulk request cannot specify more than {MAX_HISTORY_BULK_RUNS} run_ids."
            f" Received {len(run_ids)} run_ids."
        )
    key = query.get("metric_key")
    if key is None:
        raise MlflowError("GetMetricHistoryBulk request must specify a metric_key.")
    max_results = MAX_HISTORY_BULK
    if (text := query.get("max_results")) is not None:
        max_results = min(_whole("max_results", text), MAX_HISTORY_BULK)
    return BulkRequest(run_ids, key, max_results)


def parse_interval(query: Query, body: bytes = b"") -> IntervalRequest:
    """The request of a query, or of a JSON body if the query is empty.

    As in MLflow, the numbers in a body are checked but not used.
    """
    fields = _fields(
        query, body, ("run_ids", "metric_key", "start_step", "end_step", "max_results"), repeated=("run_ids",)
    )
    parsed = _as_message(
        fields,
        {
            "run_ids": _texts,
            "metric_key": _text,
            "start_step": _int32,
            "end_step": _int32,
            "max_results": _int32,
        },
    )
    types_known = len(parsed) == len(fields)
    _check_run_ids(fields.get("run_ids"), types_known)
    _check_present("metric_key", fields.get("metric_key"))
    _check_text("metric_key", fields["metric_key"], types_known)
    for name in ("start_step", "end_step", "max_results"):
        if name in fields and not types_known:
            _check_intlike(name, fields[name])
    if "max_results" in fields:
        _check_max_results(fields["max_results"])
    start, end = query.get("start_step"), query.get("end_step")
    low = high = None
    if start is not None and end is not None:
        low, high = _whole("start_step", start), _whole("end_step", end)
        if low > high:
            raise MlflowError(
                f"end_step must be greater than start_step. Found start_step={low} and end_step={high}."
            )
    elif start is not None or end is not None:
        raise MlflowError("If either start step or end step are specified, both must be specified.")
    text = query.get("max_results")
    max_results = MAX_INTERVAL_POINTS if text is None else _whole("max_results", text)
    return IntervalRequest(
        parsed.get("run_ids") or [], parsed.get("metric_key") or "", max_results, low, high
    )


def _fields(query: Query, body: bytes, names: Sequence[str], repeated: Sequence[str] = ()) -> dict[str, Any]:
    if len(query):
        return {
            name: query.getall(name) if name in repeated else query.get(name)
            for name in names
            if name in query
        }
    try:
        fields = json.loads(body) if body else {}
        if isinstance(fields, str):
            fields = json.loads(fields)
    except ValueError:
        fields = {}
    if not isinstance(fields, dict):
        return {}
    return {name: fields[name] for name in fields if name in names and fields[name] is not None}


def _as_message(fields: Mapping[str, Any], kinds: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """The fields before the first that protobuf cannot parse."""
    parsed: dict[str, Any] = {}
    for name, value in fields.items():
        try:
            parsed[name] = kinds[name](value)
        except (ValueError, TypeError, OverflowError):
            break
    return parsed


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError
    return [_text(item) for item in value]


def _int32(value: Any) -> int:
    """``google.protobuf.json_format._ConvertInteger``."""
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise TypeError
    if isinstance(value, str) and " " in value:
        raise ValueError
    try:
        number = int(value)
    except ValueError:
        if not float(value).is_integer():
            raise
        number = int(float(value))
    if not -(2**31) <= number < 2**31:
        raise OverflowError
    return number


def _check_text(name: str, value: Any, types_known: bool, *, required: bool = False) -> None:
    if not types_known and not isinstance(value, str):
        raise _wrong_type(name, value)
    if required:
        _check_present(name, value)


def _check_present(name: str, value: Any) -> None:
    if value is None or value == "":
        raise MlflowError(f"Missing value for required parameter '{name}'.{_SEE_DOCS}")


def _check_run_ids(value: Any, types_known: bool) -> None:
    _check_present("run_ids", value)
    if not types_known and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        raise _wrong_type("run_ids", value)
    if len(value) > MAX_HISTORY_BULK_RUNS:
        raise MlflowError(
            f"GetMetricHistoryBulkInterval request must specify at most {MAX_HISTORY_BULK_RUNS} run_ids."
            f" Received {len(value)} run_ids.{_SEE_DOCS}"
        )


def _check_intlike(name: str, value: Any) -> None:
    try:
        int(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise _wrong_type(name, value) from error


def _check_max_results(value: Any) -> None:
    if not 1 <= _whole("max_results", value) <= MAX_INTERVAL_POINTS:
        raise MlflowError(f"max_results must be between 1 and {MAX_INTERVAL_POINTS}.{_SEE_DOCS}")


def _whole(name: str, value: Any) -> int:
    """``int(value)``, within int64."""
    try:
        number = int(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise _wrong_type(name, value) from error
    if not INT64_MIN <= number <= INT64_MAX and name != "max_results":
        raise _wrong_type(name, value)
    return number


def _wrong_type(name: str, value: Any) -> MlflowError:
    shown = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return MlflowError(
        f"Invalid value {shown} for parameter '{name}' supplied: "
        f" Hint: Value was of type '{type(value).__name__}'.{_SEE_DOCS}"
    )
