"""Metrics through the stock client and through the endpoints that MLflow's UI reads."""

from __future__ import annotations

import math
import random
import struct
import time

import mlflow
import pyarrow as pa
import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from support.mlflow_client import Rest

T0 = 1_700_000_000_000
LARGEST = 1.7976931348623157e308  # what MLflow's store makes of infinity
DEADLINE_S = 30.0


def log(client: MlflowClient, run_id: str, key: str, points: list[tuple[int, int, float]]) -> None:
    """Log (step, timestamp, value) points in this order, 1,000 at a time."""
    for first in range(0, len(points), 1000):
        client.log_batch(run_id, [Metric(key, v, t, s) for s, t, v in points[first : first + 1000]])


def read(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, int, float]]:
    return [(m.step, m.timestamp, m.value) for m in client.get_metric_history(run_id, key)]


def test_log_metric(client: MlflowClient, run_id: str) -> None:
    client.log_metric(run_id, "loss", 0.25, timestamp=T0, step=7)
    client.log_metric(run_id, "loss", 0.125, timestamp=T0 + 1, step=8)
    client.log_metric(run_id, "loss", 9, timestamp=T0 + 2, step=-3)

    assert read(client, run_id, "loss") == [(7, T0, 0.25), (8, T0 + 1, 0.125), (-3, T0 + 2, 9.0)]
    assert client.get_run(run_id).data.metrics == {"loss": 0.125}


def test_fluent_log_metrics(client: MlflowClient, experiment_id: str) -> None:
    before = int(time.time() * 1000)
    with mlflow.start_run(experiment_id=experiment_id) as run:
        for step in range(3):
            mlflow.log_metrics({"a/x": step, "b y": 10.0 * step, "ü": -step}, step=step)
    metrics = client.get_run(run.info.run_id).data.metrics
    assert metrics == {"a/x": 2.0, "b y": 20.0, "ü": -2.0}
    history = client.get_metric_history(run.info.run_id, "b y")
    assert [(m.step, m.value) for m in history] == [(0, 0.0), (1, 10.0), (2, 20.0)]
    assert all(before <= m.timestamp <= time.time() * 1000 for m in history)


def test_batch_of_a_thousand(client: MlflowClient, run_id: str) -> None:
    points = [(step, T0 + step, math.sin(step)) for step in range(1000)]
    log(client, run_id, "wave", points)
    assert read(client, run_id, "wave") == points
    with pytest.raises(MlflowException, match="at most 1000"):
        MlflowClient()._tracking_client.store.log_batch(
            run_id, metrics=[Metric("m", 1, 1, s) for s in range(1001)], params=[], tags=[]
        )


def test_async_logging(client: MlflowClient, experiment_id: str) -> None:
    mlflow.config.enable_async_logging()
    try:
        with mlflow.start_run(experiment_id=experiment_id) as run:
            for step in range(200):
                mlflow.log_metric("loss", 1 / (step + 1), step=step)
                mlflow.log_metrics({"acc": step / 200, "lr": 0.1}, step=step)
            mlflow.log_param("p", 1)
            mlflow.flush_async_logging()
    finally:
        mlflow.config.enable_async_logging(False)
    run_id = run.info.run_id
    assert client.get_run(run_id).data.metrics == {"loss": 1 / 200, "acc": 199 / 200, "lr": 0.1}
    assert [m.step for m in client.get_metric_history(run_id, "loss")] == list(range(200))
    assert client.get_run(run_id).data.params == {"p": "1"}


def test_synchronous_false_waits_on_demand(client: MlflowClient, run_id: str) -> None:
    operations = [client.log_metric(run_id, "m", step, step=step, synchronous=False) for step in range(20)]
    for operation in operations:
        operation.wait()
    assert [m.value for m in client.get_metric_history(run_id, "m")] == [float(n) for n in range(20)]


def test_system_metrics(client: MlflowClient, experiment_id: str) -> None:
    mlflow.set_system_metrics_sampling_interval(0.2)
    mlflow.set_system_metrics_samples_before_logging(1)
    key = "system/cpu_utilization_percentage"
    try:
        with mlflow.start_run(experiment_id=experiment_id, log_system_metrics=True) as run:
            deadline = time.monotonic() + DEADLINE_S
            while len(client.get_metric_history(run.info.run_id, key)) < 3:
                assert time.monotonic() < deadline, "no system metrics arrive"
                time.sleep(0.1)
        first = len(client.get_metric_history(run.info.run_id, key))

        # A resumed run goes on after the last step that the server has.
        with mlflow.start_run(run_id=run.info.run_id, log_system_metrics=True):
            while len(client.get_metric_history(run.info.run_id, key)) < first + 2:
                assert time.monotonic() < deadline, "no system metrics arrive after resuming"
                time.sleep(0.1)
    finally:
        mlflow.set_system_metrics_sampling_interval(None)
        mlflow.set_system_metrics_samples_before_logging(None)
    assert "system/system_memory_usage_megabytes" in client.get_run(run.info.run_id).data.metrics
    steps = [m.step for m in client.get_metric_history(run.info.run_id, key)]
    assert steps == list(range(len(steps)))


def test_identical_points_are_one(client: MlflowClient, run_id: str) -> None:
    points = [(1, T0, 1.0), (1, T0, 1.0), (1, T0, 2.0), (1, T0 + 1, 1.0), (2, T0, 1.0)]
    log(client, run_id, "m", points)
    log(client, run_id, "m", points)
    client.log_metric(run_id, "m", 2.0, timestamp=T0, step=1)
    assert read(client, run_id, "m") == [(1, T0, 1.0), (1, T0, 2.0), (2, T0, 1.0), (1, T0 + 1, 1.0)]


@pytest.mark.parametrize("seed", range(4))
def test_newest_value_does_not_depend_on_arrival(client: MlflowClient, run_id: str, seed: int) -> None:
    chance = random.Random(seed)
    points = [
        (chance.randint(-3, 3), T0 + chance.randint(0, 3), chance.choice([-1.5, -0.0, 0.0, 2.0, 1e300]))
        for _ in range(60)
    ]
    for first in range(0, 60, 7):
        log(client, run_id, "m", points[first : first + 7])
        client.log_metric(
            run_id, "single", points[first][2], timestamp=points[first][1], step=points[first][0]
        )
        newest = max(points[: first + 7])
        assert client.get_run(run_id).data.metrics["m"] == newest[2]
    assert client.get_run(run_id).data.metrics["single"] == max(points[::7])[2]


def test_newest_value_after_an_older_point(client: MlflowClient, run_id: str) -> None:
    client.log_metric(run_id, "m", 5.0, timestamp=T0, step=10)
    client.log_metric(run_id, "m", 6.0, timestamp=T0 + 5, step=9)
    assert client.get_run(run_id).data.metrics["m"] == 5.0
    client.log_metric(run_id, "m", 4.0, timestamp=T0, step=10)
    assert client.get_run(run_id).data.metrics["m"] == 5.0
    client.log_metric(run_id, "m", -1.0, timestamp=T0 + 1, step=10)
    assert client.get_run(run_id).data.metrics["m"] == -1.0


def test_not_a_number_and_infinities(client: MlflowClient, run_id: str) -> None:
    values = [math.nan, math.inf, -math.inf, -0.0, 5e-324, LARGEST]
    log(client, run_id, "m", [(step, T0 + step, value) for step, value in enumerate(values)])
    for key, value in (("nan", math.nan), ("inf", math.inf), ("ninf", -math.inf)):
        client.log_metric(run_id, key, value)

    found = [m.value for m in client.get_metric_history(run_id, "m")]
    assert math.isnan(found[0])
    assert found[1:] == [LARGEST, -LARGEST, 0.0, 5e-324, LARGEST]
    newest = client.get_run(run_id).data.metrics
    assert math.isnan(newest["nan"])
    assert (newest["inf"], newest["ninf"], newest["m"]) == (LARGEST, -LARGEST, LARGEST)


def test_values_are_exact_in_storage(client: MlflowClient, rest: Rest, run_id: str) -> None:
    """MLflow's own endpoints cannot show infinities; what is stored has every bit."""
    chance = random.Random(5)
    values = [math.nan, math.inf, -math.inf, 5e-324, -LARGEST, 2**53 + 1.0, 0.1 + 0.2, -0.5]
    values += [struct.unpack("<d", struct.pack("<Q", chance.getrandbits(62)))[0] for _ in range(200)]
    log(client, run_id, "m", [(step, T0 + step, value) for step, value in enumerate(values)])
    answer = requests.post(
        f"{rest.url}/api/1.0/runstream/metrics/query",
        json={"runs": [run_id], "keys": ["m"]},
        headers={"Accept": "application/vnd.apache.arrow.stream"},
        timeout=60,
    )
    if answer.status_code == 404:
        pytest.skip("not a Runstream server")
    assert answer.status_code == 200, answer.text
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table["step"].to_pylist() == list(range(len(values)))
    found = table["value"].to_pylist()
    assert math.isnan(found[0])
    assert [struct.pack("<d", value) for value in found[1:]] == [
        struct.pack("<d", value) for value in values[1:]
    ]


def test_extreme_steps_and_timestamps(client: MlflowClient, run_id: str) -> None:
    last = 2**63 - 1
    points = [(-(2**63), 0, 1.0), (last, 1, 2.0), (0, last, 3.0)]
    log(client, run_id, "m", points)
    assert read(client, run_id, "m") == points
    assert client.get_run(run_id).data.metrics["m"] == 2.0


def test_history_in_pages(client: MlflowClient, rest: Rest, run_id: str) -> None:
    points = [(step, T0 + step // 3, float(step % 5)) for step in range(2500)]
    log(client, run_id, "m", points)
    wanted = [
        {"key": "m", "value": v, "timestamp": t, "step": s}
        for s, t, v in sorted(points, key=lambda p: (p[1], p[0], p[2]))
    ]
    for size in (700, 2499, 2500, 2501):
        assert rest.history(run_id, "m", max_results=size) == wanted
    assert read(client, run_id, "m") == [(p["step"], p["timestamp"], p["value"]) for p in wanted]
    assert rest.history(run_id, "absent") == []


def test_history_bulk(client: MlflowClient, rest: Rest, experiment_id: str) -> None:
    runs = sorted(client.create_run(experiment_id).info.run_id for _ in range(3))
    for number, run in enumerate(runs):
        log(client, run, "m", [(step, T0 + step, float(number)) for step in range(20)])
    answer = rest.get(
        "ajax-api/2.0/mlflow/metrics/get-history-bulk", run_id=runs, metric_key="m", max_results=50
    )
    assert [(p["run_id"], p["step"]) for p in answer["metrics"]] == [
        (run, step) for run in runs for step in range(20)
    ][:50]


@pytest.mark.parametrize("api", ["api", "ajax-api"])
def test_history_bulk_interval(client: MlflowClient, rest: Rest, experiment_id: str, api: str) -> None:
    runs = [client.create_run(experiment_id).info.run_id for _ in range(2)]
    for run, count in zip(runs, (37, 4), strict=True):
        log(client, run, "m", [(step, T0 + step, step / 2) for step in range(count)])
    path = f"{api}/2.0/mlflow/metrics/get-history-bulk-interval"

    sampled = rest.get(path, run_ids=runs, metric_key="m", max_results=5)["metrics"]
    assert [p["step"] for p in sampled if p["run_id"] == runs[0]] == [0, 8, 16, 23, 36]
    assert [p["step"] for p in sampled if p["run_id"] == runs[1]] == [0, 1, 2, 3]
    zoomed = rest.get(path, run_ids=runs[:1], metric_key="m", start_step=10, end_step=14, max_results=50)[
        "metrics"
    ]
    assert [(p["key"], p["step"], p["timestamp"], p["value"]) for p in zoomed] == [
        ("m", step, T0 + step, step / 2) for step in range(10, 15)
    ]


def test_graphql(client: MlflowClient, rest: Rest, run_id: str) -> None:
    log(client, run_id, "loss", [(step, T0 + step, 1 / (step + 1)) for step in range(10)])
    query = """
        query Q($run: MlflowGetRunInput!, $series: MlflowGetMetricHistoryBulkIntervalInput!) {
          mlflowGetRun(input: $run) {
            run { info { runId: runUuid } data { metrics { key value step timestamp } } }
          }
          mlflowGetMetricHistoryBulkInterval(input: $series) { metrics { key runId value step timestamp } }
        }"""
    variables = {
        "run": {"runId": run_id},
        "series": {"runIds": [run_id], "metricKey": "loss", "maxResults": 100},
    }
    answer = rest.post("graphql", {"query": query, "variables": variables})
    assert answer.get("errors") is None
    (newest,) = answer["data"]["mlflowGetRun"]["run"]["data"]["metrics"]
    assert (newest["key"], newest["value"], int(newest["step"])) == ("loss", 0.1, 9)
    series = answer["data"]["mlflowGetMetricHistoryBulkInterval"]["metrics"]
    assert [(p["runId"], int(p["step"]), p["value"]) for p in series] == [
        (run_id, step, 1 / (step + 1)) for step in range(10)
    ]


def test_series_do_not_mix(client: MlflowClient, experiment_id: str) -> None:
    runs = [client.create_run(experiment_id).info.run_id for _ in range(3)]
    keys = ["a", "a/b", "a.b", "A"]
    for number, run in enumerate(runs):
        client.log_batch(run, [Metric(k, number * 10 + n, T0, 0) for n, k in enumerate(keys)])
    for number, run in enumerate(runs):
        assert client.get_run(run).data.metrics == {k: number * 10.0 + n for n, k in enumerate(keys)}
        for n, key in enumerate(keys):
            assert read(client, run, key) == [(0, T0, number * 10.0 + n)]
