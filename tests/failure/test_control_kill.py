"""kill -9 of everything while runs are created, named, tagged and ended: what was acknowledged is there afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from support.raw_http import RawClient
from support.runstream_server import RunstreamServer

CLIENTS = 4
# See test_kill.
ROUNDS = max(1, round(float(os.environ.get("RUNSTREAM_TEST_KILL_ROUNDS", "1"))))
API = "/api/2.0/mlflow"
JSON = {"Content-Type": "application/json"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Client(threading.Thread):
    """Makes runs and changes them until it is stopped, or its server is gone; keeps what was acknowledged."""

    def __init__(self, url: str, experiment: str) -> None:
        super().__init__()
        self._url = url
        self._experiment = experiment
        self.stopping = threading.Event()
        self.runs: dict[str, dict[str, Any]] = {}

    def run(self) -> None:
        client = RawClient(self._url)
        try:
            while not self.stopping.is_set():
                self._one_run(client)
        except (OSError, AssertionError):
            pass  # the server was killed under the request
        finally:
            client.close()

    def _one_run(self, client: RawClient) -> None:
        run_id = uuid.uuid4().hex
        body = {"experiment_id": self._experiment, "run_id": run_id, "user_id": "u"}
        answer = client.send("POST", "/api/1.0/runstream/runs/create", json.dumps(body).encode(), JSON)
        assert answer.status == 200, answer
        kept = self.runs[run_id] = {"params": {}, "tags": {}, "status": None}
        for number in range(5):
            client.call("runs/log-parameter", {"run_id": run_id, "key": f"p{number}", "value": str(number)})
            kept["params"][f"p{number}"] = str(number)
            client.call("runs/set-tag", {"run_id": run_id, "key": f"t{number}", "value": "v"})
            kept["tags"][f"t{number}"] = "v"
        batch = [{"key": f"b{number}", "value": "v"} for number in range(20)]
        client.call("runs/log-batch", {"run_id": run_id, "params": batch})
        kept["params"] |= {pair["key"]: "v" for pair in batch}
        client.call("runs/update", {"run_id": run_id, "status": "FINISHED", "end_time": 9})
        kept["status"] = "FINISHED"


def missing(client: RawClient, run_id: str, kept: dict[str, Any]) -> list[str]:
    """What was acknowledged of a run and is not there."""
    answer = client.send("GET", f"{API}/runs/get?run_id={run_id}")
    if answer.status != 200:
        return [f"run {run_id}: {answer}"]
    run = answer.json["run"]
    faults = []
    for kind in ("params", "tags"):
        shown = {pair["key"]: pair["value"] for pair in run["data"].get(kind, [])}
        if lost := {key: value for key, value in kept[kind].items() if shown.get(key) != value}:
            faults.append(f"run {run_id}: {kind} {lost} lost")
    if kept["status"] is not None and run["info"]["status"] != kept["status"]:
        faults.append(f"run {run_id}: status {run['info']['status']}")
    return faults


def test_what_was_acknowledged_is_there(make_server: Callable[..., RunstreamServer]) -> None:
    server = make_server(workers=2).start()
    with contextlib.closing(RawClient(server.url)) as maker:
        experiment = maker.call("experiments/create", {"name": "kill"})["experiment_id"]
    clients: list[Client] = []
    chance = random.Random(7)
    for _ in range(ROUNDS):
        begun = [Client(server.url, experiment) for _ in range(CLIENTS)]
        for client in begun:
            client.start()
        time.sleep(chance.uniform(0.5, 2.0))
        server.kill()
        for client in begun:
            client.stopping.set()
            client.join(60)
        clients += begun
        server.start()
    reader = RawClient(server.url)
    faults = [
        fault
        for client in clients
        for run, kept in client.runs.items()
        for fault in missing(reader, run, kept)
    ]
    reader.close()
    assert not faults, "\n".join(faults[:20])
    assert sum(len(client.runs) for client in clients) > CLIENTS
