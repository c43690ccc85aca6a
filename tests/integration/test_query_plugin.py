"""The MLflow store with its points in Runstream behaves as MLflow's own store does."""

from __future__ import annotations

import math
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from runstream.query.plugin.entry import build_store
from support.clickhouse_engine import insert_points, shared_database
from support.query_server import TOKEN, query_server, serving

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@dataclass
class Gateway:
    """Takes what the plugin appends straight to the table; ``refusals`` are answered first, one each."""

    refusals: list[int] = field(default_factory=list)
    appended: list[dict[str, Any]] = field(default_factory=list)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/api/1.0/runstream/internal/append", self.append)
        return app

    async def append(self, request: web.Request) -> web.Response:
        assert request.headers["X-Runstream-Token"] == TOKEN
        if self.refusals:
            return web.Response(status=self.refusals.pop(0), headers={"Retry-After": "1"})
        body = await request.json()
        self.appended.append(body)
        points = zip(body["keys"], body["steps"], body["timestamps"], map(float, body["values"]), strict=True)
        for key, step, timestamp, value in points:
            insert_points(shared_database(), body["run_id"], key, [(step, timestamp, value)])
        return web.Response(body=b"{}")


@dataclass
class Stores:
    stock: Any
    ours: Any
    gateway: Gateway
    query_url: str

    def runs(self) -> tuple[str, str]:
        return tuple(
            store.create_run("0", "user", 0, [], uuid.uuid4().hex).info.run_id
            for store in (self.stock, self.ours)
        )


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    folder: Path = tmp_path_factory.mktemp("plugin")
    gateway = Gateway()
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        query_url = stack.enter_context(query_server())
        gateway_url = stack.enter_context(serving(gateway.app))
        stock = build_store(f"sqlite:///{folder / 'stock.db'}", str(folder / "artifacts"))
        patch.setenv("RUNSTREAM_TRACKING_PLUGIN", "1")
        patch.setenv("RUNSTREAM_GATEWAY_URL", gateway_url)
        patch.setenv("RUNSTREAM_QUERY_URL", query_url)
        patch.setenv("RUNSTREAM_INTERNAL_TOKEN", TOKEN)
        ours = build_store(f"sqlite:///{folder / 'ours.db'}", str(folder / "artifacts"))
        yield Stores(stock, ours, gateway, query_url)
        stock._dispose_engine()
        ours._dispose_engine()


def rows(metrics: Any) -> list[tuple[str, int, int, str]]:
    return [(metric.key, metric.step, metric.timestamp, repr(float(metric.value))) for metric in metrics]


def test_without_the_switch_it_is_mlflow_s_own_store(stores: Stores) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    assert type(stores.stock) is SqlAlchemyStore
    assert isinstance(stores.ours, SqlAlchemyStore)
    assert type(stores.ours) is not SqlAlchemyStore


def test_mlflow_finds_the_plugin_by_its_entry_points() -> None:
    from mlflow.server.handlers import TrackingStoreRegistryWrapper

    registry = TrackingStoreRegistryWrapper()
    for uri in (
        "sqlite:///x.db",
        "postgresql://h/db",
        "postgresql+psycopg2://h/db",
        "postgresql+psycopg://h/db",
    ):
        assert registry.get_store_builder(uri) is build_store
    assert registry.get_store_builder("mysql+pymysql://h/db") is not build_store


def test_a_missing_setting_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNSTREAM_TRACKING_PLUGIN", "1")
    monkeypatch.setenv("RUNSTREAM_GATEWAY_URL", "http://127.0.0.1:1")
    monkeypatch.delenv("RUNSTREAM_QUERY_URL", raising=False)
    with pytest.raises(MlflowException, match="RUNSTREAM_QUERY_URL"):
        build_store(f"sqlite:///{tmp_path / 'x.db'}", str(tmp_path))


def test_histories_are_the_same(stores: Stores) -> None:
    metrics = [Metric("loss", math.sin(i), 1_000 + i // 3, i // 2) for i in range(60)]
    metrics += [Metric("loss", value, 900, 3) for value in (math.nan, math.inf, -math.inf, -0.0, 7)]
    metrics += metrics[5:9]
    run_ids = stores.runs()
    results = []
    for store, run_id in zip((stores.stock, stores.ours), run_ids, strict=True):
        store.log_batch(run_id, metrics, [Param("p", "1")], [RunTag("t", "2")])
        store.log_metric(run_id, Metric("acc", 0.5, 1, 2))
        first = store.get_metric_history(run_id, "loss", max_results=10)
        second = store.get_metric_history(run_id, "loss", max_results=10, page_token=first.token)
        results.append(
            [
                rows(store.get_metric_history(run_id, "loss")),
                rows(store.get_metric_history(run_id, "acc")),
                rows(store.get_metric_history(run_id, "none")),
                rows(first),
                rows(second),
                rows(store.get_metric_history_bulk([run_id, "absent"], "loss", 30)),
                rows(store.get_metric_history_bulk_interval([run_id, "absent"], "loss", 7, None, None)),
                rows(store.get_metric_history_bulk_interval([run_id], "loss", 3, 2, 9)),
                rows(store.get_metric_history_bulk_interval_from_steps(run_id, "loss", [1, 3, 5], 4)),
                store.get_max_step_for_metric(run_id, "loss"),
                store.get_max_step_for_metric(run_id, "none"),
            ]
        )
    stock, ours = results
    assert ours == stock
    assert {metric.run_id for metric in stores.ours.get_metric_history_bulk([run_ids[1]], "loss", 3)} == {
        run_ids[1]
    }


@pytest.mark.parametrize(
    "metrics",
    [
        [Metric("bad key!", 1.0, 0, 0)],
        [Metric("ok", 1.0, 0, 0), Metric("a//b", 1.0, 0, 0)],
        [Metric("k", "text", 0, 0)],
        [Metric("k", 1.0, -1, 0)],
        [Metric("k" * 251, 1.0, 0, 0)],
    ],
    ids=range(5),
)
def test_wrong_metrics_get_mlflow_s_verdict(stores: Stores, metrics: list[Metric]) -> None:
    check_same_error(stores, stores.runs(), lambda store, run_id: store._log_metrics(run_id, metrics))


def test_runs_that_cannot_be_written(stores: Stores) -> None:
    metric = Metric("k", 1.0, 0, 0)
    check_same_error(stores, ("0" * 32, "0" * 32), lambda store, run_id: store.log_metric(run_id, metric))
    run_ids = stores.runs()
    for store, run_id in zip((stores.stock, stores.ours), run_ids, strict=True):
        store.delete_run(run_id)
    check_same_error(stores, run_ids, lambda store, run_id: store.log_batch(run_id, [metric], [], []))


def check_same_error(stores: Stores, run_ids: tuple[str, str], act: Any) -> None:
    errors = []
    for store, run_id in zip((stores.stock, stores.ours), run_ids, strict=True):
        with pytest.raises(MlflowException) as raised:
            act(store, run_id)
        errors.append((raised.value.error_code, raised.value.message.replace(run_id, "RUN")))
    assert errors[0] == errors[1]


def test_one_request_carries_a_batch(stores: Stores) -> None:
    _, run_id = stores.runs()
    before = len(stores.gateway.appended)
    stores.ours.log_batch(run_id, [Metric("k", float(i), i, i) for i in range(50)], [], [])
    stores.ours.log_batch(run_id, [], [Param("p", "1")], [])
    assert [len(body["keys"]) for body in stores.gateway.appended[before:]] == [50]


def test_pressure_is_waited_out(stores: Stores) -> None:
    _, run_id = stores.runs()
    stores.gateway.refusals[:] = [503, 429]
    stores.ours.log_metric(run_id, Metric("k", 1.0, 0, 0))
    assert rows(stores.ours.get_metric_history(run_id, "k")) == [("k", 0, 0, "1.0")]


def test_a_gateway_that_stays_away_is_temporary(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    from runstream.query.plugin.remote import Remote

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
        remote = Remote(gateway_url=nowhere, query_url=nowhere, token=TOKEN, deadline_s=0.3)
        started = time.monotonic()
        with pytest.raises(MlflowException) as raised:
            remote.append("run", ["k"], [0], [0], [1.0])
    assert raised.value.get_http_status_code() == 503
    assert time.monotonic() - started < 10


def test_the_token_is_needed(stores: Stores) -> None:
    from runstream.query.plugin.remote import Remote

    remote = Remote(gateway_url=stores.query_url, query_url=stores.query_url, token="wrong")
    with pytest.raises(MlflowException) as raised:
        remote.max_step("run", "k")
    assert raised.value.get_http_status_code() == 403


def test_collected_runs_lose_their_points(stores: Stores) -> None:
    experiment = stores.ours.create_experiment("to be collected")
    kept = stores.runs()[1]
    runs = [stores.ours.create_run(experiment, "user", 0, [], "").info.run_id for _ in range(3)]
    for run_id in (kept, *runs):
        stores.ours.log_metric(run_id, Metric("k", 1.0, 0, 0))
    shared_database().execute("SYSTEM START MERGES metrics")  # a delete is a kind of merge
    try:
        stores.ours.delete_run(runs[0])
        stores.ours._hard_delete_run(runs[0])
        stores.ours.delete_experiment(experiment)
        stores.ours._hard_delete_experiment(experiment)
    finally:
        shared_database().execute("SYSTEM STOP MERGES metrics")
    for run_id in runs:
        assert not stores.ours.get_metric_history(run_id, "k")
        with pytest.raises(MlflowException):
            stores.ours.get_run(run_id)
    assert len(stores.ours.get_metric_history(kept, "k")) == 1


def test_workspaces_keep_runs_apart(stores: Stores, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore
    from mlflow.utils.workspace_context import WorkspaceContext

    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    store = build_store(f"sqlite:///{tmp_path / 'spaces.db'}", str(tmp_path / "artifacts"))
    assert isinstance(store, WorkspaceAwareSqlAlchemyStore)
    with WorkspaceContext("default"):
        experiment = store.create_experiment("here")
        run_id = store.create_run(experiment, "user", 0, [], "").info.run_id
        store.log_metric(run_id, Metric("k", 1.0, 0, 0))
        assert len(store.get_metric_history(run_id, "k")) == 1
    with WorkspaceContext("elsewhere"):
        with pytest.raises(MlflowException) as raised:
            store.get_metric_history(run_id, "k")
        assert raised.value.get_http_status_code() == 404
        assert store.get_metric_history_bulk([run_id], "k", 10) == []
        with pytest.raises(MlflowException):
            store.log_metric(run_id, Metric("k", 2.0, 1, 1))
    store._dispose_engine()
