"""Runstream's own read API gives the points that are there, whatever the question and the format."""

from __future__ import annotations

import csv
import io
import math
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests

from runstream.query.points import long_series
from support.clickhouse_engine import Point, insert_points, shared_database
from support.query_server import Fresh, query_server

Row = tuple[str, str, int, int, str]
SERIES = {"train/loss": 40, "train/acc": 7, "val/loss": 12, "lr": 1}


@dataclass
class Service:
    url: str
    barrier: Fresh
    runs: list[str]
    rows: list[Row]

    def post(self, route: str, body: dict[str, Any], accept: str | None = None) -> requests.Response:
        headers = {} if accept is None else {"Accept": accept}
        return requests.post(
            f"{self.url}/api/1.0/runstream/metrics/{route}", json=body, headers=headers, timeout=60
        )

    def table(self, route: str, **body: Any) -> pa.Table:
        answer = self.post(route, body)
        assert answer.status_code == 200, answer.text
        return pa.ipc.open_stream(answer.content).read_all()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    rng = random.Random(5)
    runs = [uuid.UUID(int=rng.getrandbits(128)).hex for _ in range(5)]
    rows: list[Row] = []
    for run in runs:
        for key, count in SERIES.items():
            points: list[Point] = [
                (i // 2 - 3, 1_000 + 10 * i, rng.choice([rng.gauss(0, 1), 1.0])) for i in range(count)
            ]
            if key == "train/loss":
                points += [(4, 2_000, v) for v in (math.nan, math.inf, -math.inf)]
            insert_points(shared_database(), run, key, points)
            insert_points(shared_database(), run, key, points[::2])
            rows += [(run, key, s, t, repr(v)) for s, t, v in points]
    barrier = Fresh()
    with query_server(barrier) as url:
        yield Service(url, barrier, runs, rows)


def rows_of(table: pa.Table) -> list[Row]:
    return [
        (row["run_id"], row["key"], row["step"], row["timestamp"], repr(row["value"]))
        for row in table.to_pylist()
    ]


QUESTIONS: list[tuple[dict[str, Any], Any]] = [
    ({}, lambda row: True),
    ({"keys": ["lr"]}, lambda row: row[1] == "lr"),
    ({"keys": ["train/*"]}, lambda row: row[1].startswith("train/")),
    ({"keys": ["*/loss", "lr"]}, lambda row: row[1].endswith("/loss") or row[1] == "lr"),
    ({"keys": ["[tv]*/?oss"]}, lambda row: row[1].endswith("/loss")),
    ({"keys": ["nothing"]}, lambda row: False),
    ({"steps": [0, 5]}, lambda row: 0 <= row[2] <= 5),
    ({"steps": [None, -1]}, lambda row: row[2] <= -1),
    ({"time": [1_050, None]}, lambda row: row[3] >= 1_050),
    ({"time": [1_050, 1_100], "steps": [2, None]}, lambda row: 1_050 <= row[3] <= 1_100 and row[2] >= 2),
]


@pytest.mark.parametrize(("question", "wanted"), QUESTIONS)
def test_points(service: Service, question: dict[str, Any], wanted: Any) -> None:
    found = rows_of(service.table("query", runs=service.runs[:4], **question))
    expected = [row for row in service.rows if row[0] in service.runs[:4] and wanted(row)]
    assert sorted(found) == sorted(expected)
    series = [(row[0], row[1]) for row in found]
    assert series == sorted(series)


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_points_in_every_format(service: Service, compression: str) -> None:
    body = {"runs": service.runs, "compression": compression}
    expected = sorted(service.rows)
    assert sorted(rows_of(service.table("query", **body))) == expected
    answer = service.post("query", body, "application/json")
    assert answer.headers["Content-Type"] == "application/json"
    listed = [
        (row["run_id"], row["key"], row["step"], row["timestamp"], repr(float(row["value"])))
        for row in answer.json()
    ]
    assert sorted(listed) == expected
    answer = service.post("query", body, "text/csv;q=0.9, text/html")
    assert answer.headers["Content-Type"].startswith("text/csv")
    lines = csv.DictReader(io.StringIO(answer.text))
    listed = [
        (line["run_id"], line["key"], int(line["step"]), int(line["timestamp"]), repr(float(line["value"])))
        for line in lines
    ]
    assert sorted(listed) == expected
    answer = service.post("query", body, "application/vnd.apache.parquet")
    assert sorted(rows_of(pq.read_table(io.BytesIO(answer.content)))) == expected


def test_nothing_in_every_format(service: Service) -> None:
    body = {"runs": ["nobody"]}
    for route, columns in (("query", 5), ("latest", 5), ("summary", 17), ("aggregate", 8)):
        table = service.table(route, **body)
        assert (table.num_rows, table.num_columns) == (0, columns)
        assert service.post(route, body, "application/json").json() == []
        assert len(service.post(route, body, "text/csv").text.splitlines()) == 1
        assert (
            pq.read_table(
                io.BytesIO(service.post(route, body, "application/vnd.apache.parquet").content)
            ).num_rows
            == 0
        )


def test_ten_thousand_runs(service: Service) -> None:
    runs = [f"{number:032x}" for number in range(12_000)] + service.runs
    random.Random(1).shuffle(runs)
    found = rows_of(service.table("query", runs=runs, keys=["lr"]))
    assert sorted(found) == sorted(row for row in service.rows if row[1] == "lr")


@pytest.mark.parametrize("method", ["lttb", "minmax"])
def test_thinned_points(service: Service, method: str) -> None:
    exact = rows_of(service.table("query", runs=service.runs))
    found = rows_of(service.table("query", runs=service.runs, max_points=10, method=method))
    assert set(found) <= set(exact)
    for run in service.runs:
        for key, count in SERIES.items():
            whole = [row for row in exact if row[:2] == (run, key)]
            kept = [row for row in found if row[:2] == (run, key)]
            if count <= 10:
                assert kept == whole
            else:
                assert kept[0] == whole[0]
                assert kept[-1] == whole[-1]
                odd = [row for row in whole if row[4] in ("nan", "inf", "-inf")]
                assert set(odd) <= set(kept)
                assert len(kept) <= 10 + len(odd)


@pytest.mark.parametrize("method", ["lttb", "minmax"])
def test_a_long_series_is_thinned_in_clickhouse(
    service: Service, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = uuid.uuid4().hex
    count = 60_000
    rng = np.random.default_rng(7)
    values = rng.normal(size=count)
    values[[17, 30_000]] = [math.nan, math.inf]
    values[40_000] = 99.0
    points = [(step - 500, 5_000 + step, value) for step, value in enumerate(values.tolist())]
    insert_points(shared_database(), run, "k", points)
    monkeypatch.setattr("runstream.query.points.long_series.LONG_POINTS", 10_000)
    found = rows_of(service.table("query", runs=[run], keys=["k"], max_points=200, method=method))
    exact = {(run, "k", s, t, repr(v)) for s, t, v in points}
    assert set(found) <= exact
    assert found == sorted(found, key=lambda row: row[2])
    assert 150 < len(found) <= 202
    assert (found[0][2], found[-1][2]) == (-500, count - 501)
    assert {"nan", "inf", "99.0"} <= {row[4] for row in found}
    uneven = uuid.uuid4().hex
    insert_points(shared_database(), uneven, "k", [(0, t, v) for t, v in enumerate(values[:20_000].tolist())])
    found = rows_of(service.table("query", runs=[uneven], keys=["k"], max_points=50, method=method))
    assert 20 < len(found) <= 52
    assert (found[0][3], found[-1][3]) == (0, 19_999)


def test_a_curve_that_was_kept_is_never_stale(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runstream.query.points.long_series.LONG_POINTS", 1_000)
    run = uuid.uuid4().hex
    insert_points(shared_database(), run, "k", [(step, step, math.sin(step / 50)) for step in range(20_000)])
    question: dict[str, Any] = {"runs": [run], "keys": ["k"], "max_points": 100}
    first = rows_of(service.table("query", **question))
    scans: list[int] = []
    real = long_series.downsample_long

    def counted(*arguments: Any) -> Any:
        scans.append(1)
        return real(*arguments)

    monkeypatch.setattr("runstream.query.api.curves.downsample_long", counted)
    assert rows_of(service.table("query", **question)) == first
    insert_points(shared_database(), uuid.uuid4().hex, "k", [(0, 0, 1.0)])
    assert rows_of(service.table("query", **question)) == first
    assert not scans, "kept, although other runs were written"
    insert_points(shared_database(), run, "k", [(7_777, 1, 50.0)])
    assert (run, "k", 7_777, 1, "50.0") in rows_of(service.table("query", **question))
    assert scans
    insert_points(shared_database(), run, "k", [(20_000, 1, 5.0)])
    assert rows_of(service.table("query", **question))[-1] == (run, "k", 20_000, 1, "5.0")
    assert len(service.table("query", **{**question, "steps": [0, 99]})) == 100
    shared_database().execute("SYSTEM START MERGES metrics")
    try:
        shared_database().execute("DELETE FROM metrics WHERE run_id = {run:String}", {"run": run})
    finally:
        shared_database().execute("SYSTEM STOP MERGES metrics")
    assert rows_of(service.table("query", **question)) == []


def test_latest(service: Service) -> None:
    found = rows_of(service.table("latest", runs=service.runs))

    def place(row: Row) -> tuple[int, int, float, bool]:
        value = float(row[4])
        return row[2], row[3], 0.0 if math.isnan(value) else value, not math.isnan(value)

    newest = {}
    for row in sorted(service.rows, key=place):
        newest[row[:2]] = row
    assert sorted(found) == sorted(newest.values())


def test_summary(service: Service) -> None:
    lines = {
        (row["run_id"], row["key"]): row for row in service.table("summary", runs=service.runs).to_pylist()
    }
    exact = rows_of(service.table("query", runs=service.runs))
    for (run, key), line in lines.items():
        points = [(row[2], row[3], float(row[4])) for row in exact if row[:2] == (run, key)]
        numbers = [value for _, _, value in points if not math.isnan(value)]
        assert line["count"] == len(points)
        assert line["nan_count"] == len(points) - len(numbers)
        assert line["mean"] == pytest.approx(sum(numbers) / len(numbers), nan_ok=True)
        assert (line["first_step"], line["first_timestamp"]) == points[0][:2]
        assert (line["last_step"], line["last_timestamp"]) == points[-1][:2]
        for name, extreme in (("min", min(numbers)), ("max", max(numbers))):
            assert line[name] == extreme
            assert (line[f"{name}_step"], line[f"{name}_timestamp"]) == next(
                (s, t) for s, t, value in points if value == extreme
            )
    assert len(lines) == len(service.runs) * len(SERIES)


def test_summary_of_nan_alone(service: Service) -> None:
    run = uuid.uuid4().hex
    insert_points(shared_database(), run, "k", [(1, 2, math.nan), (2, 3, math.nan)])
    (line,) = service.table("summary", runs=[run]).to_pylist()
    assert (line["count"], line["nan_count"], line["mean"], line["min"], line["max_step"]) == (
        2,
        2,
        None,
        None,
        None,
    )
    assert math.isnan(line["first"])
    assert line["last_step"] == 2


def test_bands_over_runs(service: Service) -> None:
    seeds = [uuid.uuid4().hex for _ in range(9)]
    rng = np.random.default_rng(2)
    values = rng.normal(size=(9, 20))
    for seed, curve in zip(seeds, values.tolist(), strict=True):
        points = [(step, 100 + step, value) for step, value in enumerate(curve)]
        insert_points(shared_database(), seed, "loss", [*points, (3, 50, 1e9), (20, 1, math.nan)])
    stats = ["mean", "std", "min", "max", "p10", "p90", "median", "count"]
    table = service.table("aggregate", runs=seeds, stats=stats)
    assert table.column_names == ["key", "step", *stats]
    assert table.column("step").to_pylist() == list(range(20))
    for name, expected in (
        ("mean", values.mean(0)),
        ("std", values.std(0, ddof=1)),
        ("min", values.min(0)),
        ("max", values.max(0)),
        ("p10", np.quantile(values, 0.1, axis=0)),
        ("p90", np.quantile(values, 0.9, axis=0)),
        ("median", np.median(values, axis=0)),
        ("count", np.full(20, 9)),
    ):
        np.testing.assert_allclose(table.column(name).to_numpy(), expected, rtol=1e-9, err_msg=name)
    alone = service.table("aggregate", runs=seeds[:1], stats=["count", "std"]).to_pydict()
    assert alone["count"] == [1] * 20
    assert all(math.isnan(std) for std in alone["std"]), "of one run it is undefined"
    wide = service.table("aggregate", runs=seeds, stats=["mean"], every=5)
    assert wide.column("step").to_pylist() == [0, 5, 10, 15]
    np.testing.assert_allclose(wide.column("mean").to_numpy(), values[:, [4, 9, 14, 19]].mean(0), rtol=1e-9)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"runs": []}, 400),
        ({"runs": "abc"}, 400),
        ({"runs": ["a b"]}, 400),
        ({"runs": ["a"], "nothing": 1}, 400),
        ({"runs": ["a"], "max_points": 3}, 400),
        ({"runs": ["a"], "method": "best"}, 400),
        ({"runs": ["a"], "keys": []}, 400),
        ({"runs": ["a"], "steps": [2**63, None]}, 400),
        ({"runs": ["a"], "steps": [5, 4]}, 400),
        ({"runs": ["a"], "compression": "gzip"}, 400),
    ],
)
def test_wrong_questions(service: Service, body: dict[str, Any], status: int) -> None:
    answer = service.post("query", body)
    assert answer.status_code == status
    assert answer.json()["error_code"] == "INVALID_PARAMETER_VALUE"


def test_wrong_types(service: Service) -> None:
    url = f"{service.url}/api/1.0/runstream/metrics/query"
    assert (
        requests.post(url, data="{}", headers={"Content-Type": "text/plain"}, timeout=30).status_code == 415
    )
    assert (
        requests.post(url, data="{", headers={"Content-Type": "application/json"}, timeout=30).status_code
        == 400
    )
    assert service.post("query", {"runs": ["a"]}, "image/png").status_code == 406


def test_answers_wait_for_writes(service: Service) -> None:
    service.barrier.asked.clear()
    service.table("query", runs=["a", "b"])
    service.table("latest", runs=[f"r{number}" for number in range(2_000)])
    assert service.barrier.asked == [["a", "b"], None]
    service.barrier.late = True
    try:
        assert service.post("summary", {"runs": ["a"]}).headers["X-Runstream-Stale"] == "true"
    finally:
        service.barrier.late = False


def test_aggregates_take_mlflows_newest_point(service: Service) -> None:
    run, edge = uuid.uuid4().hex, uuid.uuid4().hex
    points: list[Point] = [(1, 5, 1.0), (1, 5, 9.0), (1, 5, -2.0), (2, -7, -1.0), (2, -7, -3.0), (2, -8, 4.0)]
    insert_points(shared_database(), run, "loss", points)
    means = service.table("aggregate", runs=[run], stats=["mean"]).to_pydict()
    assert dict(zip(means["step"], means["mean"], strict=True)) == {1: 9.0, 2: -1.0}
    means = service.table("aggregate", runs=[run], stats=["mean"], every=10).to_pydict()
    assert (means["step"], means["mean"]) == ([0], [-1.0])
    low, high = -(2**63), 2**63 - 1
    insert_points(shared_database(), edge, "loss", [(low, 5, 1.0), (low + 3, 5, 2.0), (high, 5, 3.0)])
    means = service.table("aggregate", runs=[edge], stats=["mean"], every=10).to_pydict()
    assert list(zip(means["step"], means["mean"], strict=True)) == [(low, 2.0), (high - 7, 3.0)]


def test_long_answers_in_json_come_in_pieces(service: Service) -> None:
    run = uuid.uuid4().hex
    insert_points(shared_database(), run, "loss", [(step, step, float("nan")) for step in range(40_000)])
    rows = service.post("query", {"runs": [run]}, "application/json").json()
    assert [row["step"] for row in rows] == list(range(40_000))
    assert {row["value"] for row in rows} == {"NaN"}
