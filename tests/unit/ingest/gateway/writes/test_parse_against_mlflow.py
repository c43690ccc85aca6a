"""The parser beside MLflow's own handlers, in one process, up to where they need the database.

The requests are those of the differential test in ``integration/test_verdicts.py``, which has two whole servers answer
them. Here stock MLflow's code runs until it opens a session; what it would do with the session is compared there.
"""

from __future__ import annotations

import json
import math
import os
import struct
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from hypothesis import given, settings
from mlflow.entities import Metric

from runstream.ingest.gateway.writes.log_request import LogRequest
from runstream.ingest.gateway.writes.parse import parse_log_batch, parse_log_metric
from runstream.schemas.errors import MlflowError
from runstream.schemas.mlflow.names import is_run_id
from runstream.schemas.mlflow.statuses import status_of
from support.verdicts.cases import WRITES
from support.verdicts.made_up import writes
from support.verdicts.requests import API, UNKNOWN, Case, Request
from support.verdicts.sides import parser_stops_half_way

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # MLflow's, about SQLAlchemy
    from mlflow.server import handlers
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

EXAMPLES = int(os.environ.get("RUNSTREAM_VERDICT_EXAMPLES", "0"))
PATHS = {f"{API}/runs/log-batch": "log_batch", f"{API}/runs/log-metric": "log_metric"}


class DatabaseNeededError(Exception):
    """Stock MLflow has no objection before it looks at its database."""


class StoreWithoutDatabase(SqlAlchemyStore):
    """MLflow's store up to its first session; keeps what it was asked to log."""

    def __init__(self) -> None:
        self.run_id = ""
        self.metrics: list[Metric] = []
        self.params: list[Any] = []
        self.tags: list[Any] = []

    def log_metric(self, run_id: str, metric: Metric) -> None:
        self.run_id, self.metrics, self.params, self.tags = run_id, [metric], [], []
        super().log_metric(run_id, metric)

    def log_batch(self, run_id: str, metrics: list[Metric], params: list[Any], tags: list[Any]) -> None:
        self.run_id, self.metrics, self.params, self.tags = run_id, metrics, params, tags
        super().log_batch(run_id, metrics, params, tags)

    def ManagedSessionMaker(self, *args: Any, **kwargs: Any) -> Any:
        raise DatabaseNeededError


@pytest.fixture(scope="module")
def app() -> Flask:
    return Flask(__name__)


@pytest.fixture(scope="module")
def store() -> Iterator[StoreWithoutDatabase]:
    with pytest.MonkeyPatch.context() as patch:
        store = StoreWithoutDatabase()
        patch.setattr(handlers, "_get_tracking_store", lambda: store)
        yield store


def check(request: Request, app: Flask, store: StoreWithoutDatabase) -> None:
    kind = PATHS[request.path]
    body = (request.body or b"").replace(b"@active@", b"a" * 32).replace(b"@unknown@", UNKNOWN.encode())
    body = body.replace(b"@deleted@", b"d" * 32).replace(b"@model@", b"m-1")
    ours: LogRequest | MlflowError
    try:
        ours = (parse_log_batch if kind == "log_batch" else parse_log_metric)(body, request.content_type)
    except MlflowError as error:
        ours = error
    try:
        with app.test_request_context(
            request.path, method="POST", data=body, content_type=request.content_type
        ):
            answer = getattr(handlers, f"_{kind}")()
    except DatabaseNeededError:
        check_accepted(request, kind, ours, store)
    except Exception:  # stock MLflow would answer 500
        assert isinstance(ours, MlflowError)
        assert ours.code == "INVALID_PARAMETER_VALUE"
    else:
        assert isinstance(ours, MlflowError), (answer.status_code, answer.get_data())
        assert status_of(ours) == answer.status_code
        assert json.loads(ours.body()) == json.loads(answer.get_data())


def check_accepted(
    request: Request, kind: str, ours: LogRequest | MlflowError, store: StoreWithoutDatabase
) -> None:
    if kind == "log_metric" and not is_run_id(store.run_id) and isinstance(ours, MlflowError):
        assert (ours.code, ours.message) == (
            "RESOURCE_DOES_NOT_EXIST",
            f"Run with id={store.run_id} not found",
        )
        return
    assert isinstance(ours, LogRequest)
    assert ours.run_id == store.run_id
    if parser_stops_half_way(request):
        assert ours.deferred_error is not None
        assert (ours.keys, ours.forward) == ([], None)
        return
    assert ours.deferred_error is None
    of_run = [metric for metric in store.metrics if metric.model_id is None]
    assert ours.keys == [metric.key for metric in of_run]
    assert ours.steps == [metric.step for metric in of_run]
    assert ours.timestamps == [metric.timestamp for metric in of_run]
    assert [_bits(value) for value in ours.values] == [_bits(metric.value) for metric in of_run]
    check_forward(kind, ours, store)


def check_forward(kind: str, ours: LogRequest, store: StoreWithoutDatabase) -> None:
    of_models = [_columns(metric) for metric in store.metrics if metric.model_id is not None]
    pairs = [[(entry.key, entry.value) for entry in entries] for entries in (store.params, store.tags)]
    if not (of_models or any(pairs)):
        assert ours.forward is None
        return
    assert ours.forward is not None
    # MLflow's server reads it once more, and has to find the same.
    path = f"{API}/runs/{kind.replace('_', '-')}"
    again = StoreWithoutDatabase()
    with (
        pytest.MonkeyPatch.context() as patch,
        Flask(__name__).test_request_context(
            path, method="POST", data=ours.forward, content_type="application/json"
        ),
    ):
        patch.setattr(handlers, "_get_tracking_store", lambda: again)
        with pytest.raises(DatabaseNeededError):
            getattr(handlers, f"_{kind}")()
    assert again.run_id == store.run_id
    assert [_columns(metric) for metric in again.metrics] == of_models
    assert [
        [(entry.key, entry.value) for entry in entries] for entries in (again.params, again.tags)
    ] == pairs


def _columns(metric: Metric) -> tuple[Any, ...]:
    names = (metric.model_id, metric.dataset_name, metric.dataset_digest)
    return metric.key, _bits(metric.value), metric.timestamp, metric.step, *names


def _bits(value: float) -> bytes:
    # NaN has one form in JSON, and zero one value in MLflow.
    return b"NaN" if math.isnan(value) else struct.pack("<d", value + 0.0)


@pytest.mark.parametrize("case", WRITES, ids=lambda case: case.name)
def test_table(case: Case, app: Flask, store: StoreWithoutDatabase) -> None:
    for request in case.requests:
        if request.path in PATHS:
            check(request, app, store)


@pytest.mark.timeout(3600)
@settings(max_examples=EXAMPLES or 300, derandomize=not EXAMPLES, deadline=None, database=None)
@given(request=writes())
def test_made_up(request: Request, app: Flask, store: StoreWithoutDatabase) -> None:
    check(request, app, store)
