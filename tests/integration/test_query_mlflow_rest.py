"""The history endpoints answer what a stock MLflow server answers: status, type and body, right and wrong
requests."""

from __future__ import annotations

import json
import math
import socket
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runstream.schemas.wire import INTERNAL, TOKEN_HEADER
from support.clickhouse_engine import insert_points, shared_database
from support.query_server import TOKEN, Fresh, query_server
from support.stock import stock_server

HISTORY = "/api/2.0/mlflow/metrics/get-history"
BULK = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
INTERVAL = "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval"
KEYS = {
    "plain": [(i, 1_000 + i, math.cos(i) / 10**i) for i in range(60)],
    "odd": [(0, 5, v) for v in (math.nan, math.inf, -math.inf, -0.0, 1e-5, 1e16, 123456789012345678.0)],
    "clé/ü v1": [(-3, 2, 1.0), (2**63 - 1, 1, 5e-324)],
}


@dataclass
class Servers:
    stock: str
    ours: str
    runs: list[str]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder: Path = tmp_path_factory.mktemp("rest")
    with stock_server(folder) as stock, query_server() as ours:
        runs = []
        for _ in range(3):
            answer = requests.post(f"{stock.url}/api/2.0/mlflow/runs/create", json={"experiment_id": "0"})
            run_id = answer.json()["run"]["info"]["run_id"]
            runs.append(run_id)
            metrics = [
                {
                    "key": key,
                    "step": s,
                    "timestamp": t,
                    "value": str(v).replace("inf", "Infinity").replace("nan", "NaN"),
                }
                for key, points in KEYS.items()
                for s, t, v in points
            ]
            body = {"run_id": run_id, "metrics": metrics}
            assert requests.post(f"{stock.url}/api/2.0/mlflow/runs/log-batch", json=body).status_code == 200
            for key, points in KEYS.items():
                insert_points(shared_database(), run_id, key, points)
        yield Servers(stock.url, ours, runs)


def check(servers: Servers, path: str, query: list[tuple[str, Any]], body: Any = None) -> None:
    answers = [
        requests.get(url + path, params=query, json=body, timeout=30) for url in (servers.stock, servers.ours)
    ]
    stock, ours = answers
    if stock.status_code == 500:
        assert ours.status_code == 400, (stock.text, ours.text)
        return
    assert ours.status_code == stock.status_code, (stock.text, ours.text)
    assert ours.headers["Content-Type"] == stock.headers["Content-Type"]
    assert ours.content == stock.content


TOKENS = [
    "abc",
    "!!!!",
    "W10=",
    "e30=",
    "",
    "eyJvZmZzZXQiOiAyfQ==",
    "eyJvZmZzZXQiOiAtMn0=",
    "eyJvZmZzZXQiOiAwfQ==",
]
TOKENS += ["eyJvZmZzZXQiOiAiYWJjIn0=", "eyJvZmZzZXQiOiAxLjV9", "eyJvZmZzZXQiOiBbMV19", "eyJvZmZzZXQiOiAiMyJ9"]
NUMBERS = [
    "0",
    "1",
    "5",
    "-1",
    "-70",
    "abc",
    "1.5",
    "2.0",
    "99999999999",
    "",
    " 2",
    "1e1",
    "true",
    "NaN",
    "1_0",
    "2501",
]


@pytest.mark.parametrize("key", KEYS)
def test_points(servers: Servers, key: str) -> None:
    run = servers.runs[0]
    for api in ("/api", "/ajax-api"):
        path = f"{api}/2.0/mlflow/metrics/get-history"
        check(servers, path, [("run_id", run), ("metric_key", key)])
        check(servers, path, [("run_uuid", run), ("metric_key", key), ("max_results", 3)])
        check(servers, f"{path}-bulk-interval", [("run_ids", run), ("metric_key", key), ("max_results", 4)])
    runs = [("run_id", run) for run in [*servers.runs, "unknown"]]
    check(servers, BULK, [*runs, ("metric_key", key)])
    check(servers, BULK, [*runs, ("metric_key", key), ("max_results", 70)])


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers(servers: Servers, number: str) -> None:
    run = servers.runs[0]
    check(servers, HISTORY, [("run_id", run), ("metric_key", "plain"), ("max_results", number)])
    check(servers, BULK, [("run_id", run), ("metric_key", "plain"), ("max_results", number)])
    check(servers, INTERVAL, [("run_ids", run), ("metric_key", "plain"), ("max_results", number)])
    for steps in ((number, number), ("-5", number), (number, "7")):
        named = [("start_step", steps[0]), ("end_step", steps[1])]
        check(servers, INTERVAL, [("run_ids", run), ("metric_key", "plain"), *named])
    check(servers, INTERVAL, [("run_ids", run), ("metric_key", "plain"), ("start_step", number)])
    check(servers, INTERVAL, [("run_ids", run), ("metric_key", "plain"), ("end_step", number)])


@pytest.mark.parametrize("token", TOKENS)
def test_tokens(servers: Servers, token: str) -> None:
    query = [("run_id", servers.runs[0]), ("metric_key", "plain"), ("page_token", token)]
    check(servers, HISTORY, query)
    check(servers, HISTORY, [*query, ("max_results", 5)])


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (HISTORY, []),
        (HISTORY, [("run_id", "x")]),
        (HISTORY, [("metric_key", "x")]),
        (HISTORY, [("metric_key", "x"), ("max_results", "abc")]),
        (HISTORY, [("run_id", "x"), ("max_results", "abc")]),
        (HISTORY, [("run_id", ""), ("metric_key", "x")]),
        (HISTORY, [("run_id", ""), ("run_uuid", "x"), ("metric_key", "x")]),
        (HISTORY, [("run_id", "a"), ("run_id", "b"), ("metric_key", "plain"), ("metric_key", "")]),
        (HISTORY, [("runId", "x"), ("metric_key", "x")]),
        (HISTORY, [("run_id", "x"), ("metricKey", "x")]),
        (HISTORY, [("run_id", "x"), ("metric_key", "")]),
        (BULK, []),
        (BULK, [("run_id", "a")]),
        (BULK, [("metric_key", "k")]),
        (BULK, [("run_id", "a"), ("metric_key", "")]),
        (BULK, [("run_id", "a"), ("metric_key", "k"), ("max_results", "9" * 30)]),
        (BULK, [("run_id", "a")] * 100 + [("metric_key", "k")]),
        (BULK, [("run_id", "a")] * 101 + [("metric_key", "k")]),
        (INTERVAL, []),
        (INTERVAL, [("run_ids", "a")]),
        (INTERVAL, [("metric_key", "k")]),
        (INTERVAL, [("run_ids", "a"), ("metric_key", "")]),
        (INTERVAL, [("run_ids", ""), ("metric_key", "k")]),
        (INTERVAL, [("runIds", "a"), ("metric_key", "k")]),
        (INTERVAL, [("run_ids", "a")] * 100 + [("metric_key", "k")]),
        (INTERVAL, [("run_ids", "a")] * 101 + [("metric_key", "k")]),
        (INTERVAL, [("run_ids", "a"), ("metric_key", "k"), ("start_step", "3"), ("end_step", "1")]),
        (
            INTERVAL,
            [("run_ids", "a"), ("metric_key", "k"), ("start_step", "-" + "9" * 30), ("end_step", "1")],
        ),
    ],
)
def test_wrong_parameters(servers: Servers, path: str, query: list[tuple[str, Any]]) -> None:
    check(servers, path, query)


@pytest.mark.parametrize(
    "body",
    [
        {"run_id": "R", "metric_key": "plain", "max_results": 2},
        {"run_id": "R", "metric_key": "plain", "max_results": "2"},
        {"run_id": "R", "metric_key": "plain", "max_results": 0},
        {"run_id": "R", "metric_key": "plain", "max_results": None},
        {"run_id": "R", "metric_key": "plain", "max_results": 2.5},
        {"run_id": "R", "metric_key": "plain", "page_token": 5},
        {"run_id": 1, "metric_key": "plain"},
        {"run_id": "R", "metric_key": 1},
        {"run_ids": ["R"], "metric_key": "plain", "max_results": 1},
        {"run_ids": "R", "metric_key": "plain"},
        {"run_ids": [1], "metric_key": "plain"},
        {"run_ids": [], "metric_key": "plain"},
        {"run_ids": ["R"], "metric_key": "plain", "max_results": 2501},
        {"run_ids": ["R"], "metric_key": "plain", "start_step": 1},
        {},
    ],
)
def test_bodies(servers: Servers, body: dict[str, Any]) -> None:
    run = servers.runs[0]
    body = {name: run if value == "R" else [run] if value == ["R"] else value for name, value in body.items()}
    check(servers, INTERVAL if "run_ids" in body else HISTORY, [], body)


names = st.sampled_from(
    ["run_id", "run_uuid", "run_ids", "metric_key", "max_results", "page_token", "start_step"]
)
texts = st.sampled_from(["RUN", "plain", "odd", "unknown", *NUMBERS, *TOKENS]) | st.text(max_size=5)
texts = texts.filter(lambda text: text.isprintable())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([HISTORY, BULK, INTERVAL]), st.lists(st.tuples(names, texts), max_size=6))
def test_any_parameters(servers: Servers, path: str, query: list[tuple[str, str]]) -> None:
    run = servers.runs[1]
    check(servers, path, [(name, run if value == "RUN" else value) for name, value in query])


def test_paging_as_the_client_does(servers: Servers) -> None:
    token: str | None = None
    steps: list[int] = []
    for _ in range(20):
        query = [("run_id", servers.runs[0]), ("metric_key", "plain"), ("max_results", "7")]
        query += [("page_token", token)] if token else []
        check(servers, HISTORY, query)
        page = requests.get(servers.ours + HISTORY, params=query, timeout=30).json()
        steps += [metric["step"] for metric in page["metrics"]]
        token = page.get("next_page_token")
        if token is None:
            break
    assert steps == list(range(60))


def test_reads_wait_for_writes_and_say_when_they_could_not() -> None:
    run_id = uuid.uuid4().hex
    insert_points(shared_database(), run_id, "k", [(i, i, 1.0) for i in range(3)])
    barrier = Fresh()
    with query_server(barrier) as url:
        requests.get(url + HISTORY, params={"run_id": run_id, "metric_key": "k"}, timeout=30)
        requests.get(url + BULK, params={"run_id": [run_id, "b"], "metric_key": "k"}, timeout=30)
        fresh = requests.get(url + INTERVAL, params={"run_ids": [run_id], "metric_key": "k"}, timeout=30)
        assert barrier.asked == [[run_id], [run_id, "b"], [run_id]]
        assert "X-Runstream-Stale" not in fresh.headers
        barrier.late = True
        stale = requests.get(url + INTERVAL, params={"run_ids": [run_id], "metric_key": "k"}, timeout=30)
        assert stale.headers["X-Runstream-Stale"] == "true"
        assert stale.content == fresh.content


def test_a_body_in_two_packets_is_one_body(servers: Servers) -> None:
    body = json.dumps({"run_id": servers.runs[0], "metric_key": "plain", "max_results": 3}).encode()
    whole = requests.get(servers.ours + HISTORY, data=body, timeout=30)
    address = urlsplit(servers.ours)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        head = (
            f"GET {HISTORY} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(head.encode() + body[:20])
        # The first half has been read once its request is answered by nothing but silence.
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(30)
        connection.sendall(body[20:])
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(whole.content)


def test_points_on_their_way_keep_a_run_from_being_removed() -> None:
    run_id = uuid.uuid4().hex
    insert_points(shared_database(), run_id, "k", [(0, 0, 1.0)])
    barrier = Fresh()
    barrier.late = True
    with query_server(barrier) as url:
        headers = {TOKEN_HEADER: TOKEN}
        refused = requests.post(
            f"{url}{INTERNAL}/delete-runs", json={"run_ids": [run_id]}, headers=headers, timeout=30
        )
        assert refused.status_code == 429
        query = {"run_id": run_id, "metric_key": "k"}
        assert len(requests.get(url + HISTORY, params=query, timeout=30).json()["metrics"]) == 1
