"""Straight after a log call has returned, every read shows it: through any gateway, time after time.

The stock client keeps its connections, and a connection stays with one gateway process; so half of the turns read
over new connections, which the kernel spreads over the processes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Metric

TURNS = int(os.environ.get("RUNSTREAM_TEST_READ_YOUR_WRITES", "300"))
SEARCH_EVERY = int(os.environ.get("RUNSTREAM_TEST_SEARCH_EVERY", "5"))
THREADS = 4
T0 = 1_700_000_000_000


@pytest.mark.slow
def test_one_client(client: MlflowClient, tracking_uri: str, experiment_id: str) -> None:
    runs = [client.create_run(experiment_id).info.run_id for _ in range(3)]
    for turn in range(1, TURNS + 1):
        run_id = runs[turn % 3]
        log(client, run_id, "m", turn)
        if turn % 2:
            check_with_client(client, experiment_id, run_id, "m", turn)
        else:
            check_with_new_connections(tracking_uri, experiment_id, run_id, "m", turn)
    for number, run_id in enumerate(runs):
        steps = [m.step for m in client.get_metric_history(run_id, "m")]
        assert steps == [turn for turn in range(1, TURNS + 1) if turn % 3 == number]


@pytest.mark.slow
def test_many_clients(client: MlflowClient, tracking_uri: str, experiment_id: str) -> None:
    faults: list[BaseException] = []

    def work(number: int) -> None:
        try:
            own = MlflowClient(tracking_uri)
            run_id = own.create_run(experiment_id).info.run_id
            key = f"thread-{number}"
            for turn in range(1, max(1, TURNS // 25) + 1):
                log(own, run_id, key, turn)
                check_with_client(own, experiment_id, run_id, key, turn)
                check_with_new_connections(tracking_uri, experiment_id, run_id, key, turn)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def log(client: MlflowClient, run_id: str, key: str, turn: int) -> None:
    if turn % 4 < 2:
        client.log_metric(run_id, key, turn, timestamp=T0 + turn, step=turn)
    else:
        client.log_batch(
            run_id, [Metric(key, turn, T0 + turn, turn), Metric("other", -turn, T0 + turn, turn)]
        )


def check(reads: list[Callable[[], None]], turn: int) -> None:
    """Do these reads, another one first each time: the first has to wait for the writer. A search costs MLflow
    several times what the others cost, so not every turn has one."""
    wanted = reads if turn % SEARCH_EVERY == 0 else reads[1:]
    first = turn // SEARCH_EVERY % len(wanted)
    for read in wanted[first:] + wanted[:first]:
        read()


def check_with_client(client: MlflowClient, experiment_id: str, run_id: str, key: str, turn: int) -> None:
    def search() -> None:
        found = client.search_runs(
            [experiment_id], f"metrics.`{key}` = {turn}", order_by=[f"metrics.`{key}` DESC"]
        )
        assert [run.info.run_id for run in found] == [run_id], f"search_runs, turn {turn}"

    def get() -> None:
        assert client.get_run(run_id).data.metrics[key] == turn, f"get_run, turn {turn}"

    def history() -> None:
        newest = client.get_metric_history(run_id, key)[-1]
        assert (newest.step, newest.value) == (turn, turn), f"get_metric_history, turn {turn}"

    check([search, get, history], turn)


def check_with_new_connections(url: str, experiment_id: str, run_id: str, key: str, turn: int) -> None:
    api = f"{url}/api/2.0/mlflow"

    def answer(method: str, path: str, **request: Any) -> Any:
        response = requests.request(
            method, f"{api}/{path}", timeout=60, headers={"Connection": "close"}, **request
        )
        assert response.status_code == 200, response.text
        assert "X-Runstream-Stale" not in response.headers
        return response.json()

    def search() -> None:
        body = {
            "experiment_ids": [experiment_id],
            "filter": f"metrics.`{key}` >= {turn}",
            "order_by": [f"metrics.`{key}` DESC"],
            "max_results": 1,
        }
        found = answer("POST", "runs/search", json=body).get("runs", [])
        assert [run["info"]["run_id"] for run in found] == [run_id], f"runs/search, turn {turn}"

    def get() -> None:
        metrics = answer("GET", "runs/get", params={"run_id": run_id})["run"]["data"]["metrics"]
        assert {m["key"]: m["value"] for m in metrics}[key] == turn, f"runs/get, turn {turn}"

    def history() -> None:
        points = answer("GET", "metrics/get-history", params={"run_id": run_id, "metric_key": key})["metrics"]
        assert points[-1]["step"] == turn, f"get-history, turn {turn}"

    check([search, get, history], turn)
