"""Tables of runs show what was logged, at once, with numbers about series as columns, filters and orders."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from support.raw_http import Answer, RawClient

RUNS = 40
T0 = 1_700_000_000_000
Points = list[tuple[int, int, float]]  # step, timestamp, value


@pytest.fixture(scope="module")
def logged(client: MlflowClient, experiment_id: str) -> dict[str, dict[str, Points]]:
    """By run and key, the points of series."""
    chance = random.Random(3)
    found: dict[str, dict[str, Points]] = {}
    for number in range(RUNS):
        run_id = client.create_run(experiment_id, start_time=T0 + number).info.run_id
        series: dict[str, Points] = {}
        for key in ("loss", "val/acc", "loss.min"):
            if key == "loss.min" and number % 5:
                continue
            values = [
                chance.choice([chance.uniform(-1, 1), math.nan]) for _ in range(chance.randrange(1, 12))
            ]
            if key == "val/acc" and number % 9 == 0:
                values = [math.nan]
            series[key] = [(chance.randrange(6), T0 + chance.randrange(3), value) for value in values]
        points = [Metric(key, v, t, s) for key, rows in series.items() for s, t, v in rows]
        # Sent twice: one point all the same.
        for _ in range(2):
            client.log_batch(run_id, points)
        client.log_batch(
            run_id,
            params=[Param("lr", chance.choice(["0.1", "0.01"])), Param("long", "x" * 70)],
            tags=[RunTag("team", chance.choice(["a", "b"]))],
        )
        found[run_id] = series
    return found


@pytest.fixture
def server(tracking_uri: str) -> Iterator[RawClient]:
    raw = RawClient(tracking_uri)
    yield raw
    raw.close()


def ask(server: RawClient, accept: str = "application/json", **body: Any) -> Answer:
    headers = {"Content-Type": "application/json", "Accept": accept}
    return server.send("POST", "/api/1.0/runstream/runs", json.dumps(body).encode(), headers)


def table(server: RawClient, **body: Any) -> dict[str, list[Any]]:
    """Values by column."""
    answer = ask(server, **body)
    assert answer.status == 200, answer
    return {column["name"]: column["values"] for column in answer.json["columns"]}


def expected(points: Points, what: str, step: int = 0) -> float | None:
    """A number about a series, of its distinct points, as its documentation says."""
    place = {(s, t, "nan" if math.isnan(v) else v): (s, t, v) for s, t, v in points}
    ordered = sorted(
        place.values(), key=lambda p: (p[0], p[1], 0.0 if math.isnan(p[2]) else p[2], not math.isnan(p[2]))
    )
    numbers = [v for _, _, v in ordered if not math.isnan(v)]
    if what in ("first", "last"):
        return ordered[0 if what == "first" else -1][2]
    if what == "at":
        there = [v for s, _, v in ordered if s == step]
        return there[-1] if there else None
    if what == "count":
        return float(len(ordered))
    if not numbers:
        return None
    return {"min": min(numbers), "max": max(numbers), "mean": statistics.fmean(numbers)}[what]


def same(shown: Any, wanted: float | None) -> bool:
    if wanted is None:
        return shown is None
    if math.isnan(wanted):
        return bool(shown == "NaN")
    return isinstance(shown, float) and math.isclose(shown, wanted, rel_tol=1e-12, abs_tol=1e-12)


WHATS = ["min", "max", "mean", "count", "first", "last", "at(3)"]


def test_columns(server: RawClient, experiment_id: str, logged: dict[str, dict[str, Points]]) -> None:
    columns = [f"metrics.loss.{what}" for what in WHATS]
    columns += [f"metrics.`val/acc`.{what}" for what in WHATS] + ["metrics.`loss.min`", "metrics.loss"]
    found = table(server, experiment_ids=[experiment_id], columns=columns)
    assert list(found) == ["run_id", *columns]
    assert found["run_id"] == list(logged)[::-1]  # newest first
    for at, run_id in enumerate(found["run_id"]):
        for key, name in (("loss", "loss"), ("val/acc", "`val/acc`")):
            for what in WHATS:
                wanted = expected(logged[run_id][key], what.partition("(")[0], 3)
                assert same(found[f"metrics.{name}.{what}"][at], wanted), (run_id, key, what)
        assert found["metrics.loss"][at] == found["metrics.loss.last"][at]
        assert (found["metrics.`loss.min`"][at] is None) == ("loss.min" not in logged[run_id])


def test_globs_become_what_the_runs_have(
    server: RawClient, experiment_id: str, logged: dict[str, dict[str, Points]]
) -> None:
    found = table(
        server,
        experiment_ids=[experiment_id],
        columns=["params.*", "tags.te*", "metrics.*.max", "attributes.st*"],
    )
    assert list(found) == [
        *("run_id", "params.long", "params.lr", "tags.team", "metrics.loss.max", "metrics.`loss.min`.max"),
        *("metrics.`val/acc`.max", "attributes.status", "attributes.start_time"),
    ]
    assert set(found["params.lr"]) == {"0.1", "0.01"}
    assert set(found["params.long"]) == {"x" * 70}
    assert found["attributes.start_time"] == [T0 + at for at in range(RUNS)][::-1]


@pytest.mark.parametrize("sign", ["<", ">=", "!="])
@pytest.mark.parametrize("what", ["min", "mean", "at(3)"])
def test_filter_and_order(
    server: RawClient, experiment_id: str, logged: dict[str, dict[str, Points]], sign: str, what: str
) -> None:
    def holds(value: float | None) -> bool:
        if value is None:
            return False
        return {"<": value < 0.1, ">=": value >= 0.1, "!=": value != 0.1}[sign]

    def place(run_id: str) -> tuple[int, float, float]:
        value = expected(logged[run_id]["val/acc"], "mean")
        rank = 2 if value is None else int(math.isnan(value))
        return rank, 0.0 if rank else -(value or 0.0), -list(logged).index(run_id)

    found = table(
        server,
        experiment_ids=[experiment_id],
        filter=f"metrics.loss.{what} {sign} 0.1 AND params.lr = '0.1'",
        order_by=["metrics.`val/acc`.mean DESC"],
        columns=["params.lr"],
    )
    with_rate = set(table(server, experiment_ids=[experiment_id], filter="params.lr = '0.1'")["run_id"])
    wanted = [
        run_id
        for run_id, series in logged.items()
        if run_id in with_rate and holds(expected(series["loss"], what.partition("(")[0], 3))
    ]
    assert found["run_id"] == sorted(wanted, key=place)


def test_pages_and_arrow(server: RawClient, experiment_id: str, logged: dict[str, dict[str, Points]]) -> None:
    accept = "application/vnd.apache.arrow.stream"
    whole = table(server, experiment_ids=[experiment_id], order_by=["metrics.loss.min"])["run_id"]
    seen: list[str] = []
    token = None
    while True:
        answer = ask(
            server,
            accept,
            experiment_ids=[experiment_id],
            order_by=["metrics.loss.min"],
            columns=["metrics.loss.min", "attributes.start_time", "tags.team"],
            max_results=7,
            page_token=token,
        )
        with pa.ipc.open_stream(answer.body) as stream:
            page = stream.read_all()
        assert [str(kind) for kind in page.schema.types] == ["string", "double", "int64", "string"]
        seen += page.column("run_id").to_pylist()
        token = (page.schema.metadata or {}).get(b"next_page_token", b"").decode()
        if not token:
            break
    assert seen == whole


def test_shows_what_was_just_logged(client: MlflowClient, server: RawClient) -> None:
    experiment = client.create_experiment("table of one")
    run_id = client.create_run(experiment).info.run_id
    for value in range(20):
        # Older than the newest: nothing of the run's rows changes.
        client.log_metric(run_id, "m", value, timestamp=T0, step=-value)
        found = table(server, experiment_ids=[experiment], columns=["metrics.m.max", "metrics.m"])
        assert found == {"run_id": [run_id], "metrics.m.max": [value], "metrics.m": [0.0]}


@pytest.mark.parametrize(
    "body",
    [
        {"experiment_ids": []},
        {"experiment_ids": ["x"]},
        {"experiment_ids": ["0"], "filter": "metrics.loss.min < "},
        {"experiment_ids": ["0"], "filter": "metrics.loss.best < 1 OR 1"},
        {"experiment_ids": ["0"], "order_by": ["metrics.loss.min up"]},
        {"experiment_ids": ["0"], "order_by": ["params.lr", "metrics.loss.min"]},
        {"experiment_ids": ["0"], "columns": ["loss"]},
        {"experiment_ids": ["0"], "columns": ["attributes.nothing"]},
        {"experiment_ids": ["0"], "max_results": 100_001},
        {"experiment_ids": ["0"], "page_token": "!"},
        {"experiment_ids": ["0"], "more": 1},
    ],
)
def test_what_is_wrong_is_said(server: RawClient, body: dict[str, Any]) -> None:
    answer = ask(server, **body)
    assert answer.status == 400, answer
    assert answer.json["error_code"] == "INVALID_PARAMETER_VALUE"
