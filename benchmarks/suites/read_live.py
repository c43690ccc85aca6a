"""How long a point takes from its acknowledgement to a listener of the live stream."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import Any

import numpy as np

from benchmarks.harness.client import API, Client
from benchmarks.systems.base import Server

_TIMEOUT_S = 30.0


def live_delays(server: Server, points: int) -> dict[str, Any]:
    """Log points one by one into a run that is listened to; milliseconds from each answer to the event.

    A point that arrives before its answer does counts as 0. Raises ``RuntimeError`` if one never arrives.
    """
    with Client(server.host, server.port) as client:
        run = client.create_run(client.create_experiment(f"live {time.time()}"))
        listener = _Listener(server, run, points)
        acknowledged = []
        for step in range(points):
            point = {"run_id": run, "key": "k", "value": 1.0, "timestamp": 1, "step": step}
            client.post(API + "runs/log-metric", point)
            acknowledged.append(time.perf_counter())
            time.sleep(0.02)  # the pace of a training loop
    arrived = listener.wait()
    delays = [max(arrived[step] - at, 0.0) * 1000 for step, at in enumerate(acknowledged)]
    return {
        "points": points,
        "p50_ms": round(float(np.percentile(delays, 50)), 1),
        "p99_ms": round(float(np.percentile(delays, 99)), 1),
        "best_ms": round(min(delays), 1),
    }


class _Listener:
    def __init__(self, server: Server, run: str, points: int) -> None:
        self._wanted = points
        self._arrived: dict[int, float] = {}
        self._open = threading.Event()
        self._connection = http.client.HTTPConnection(server.host, server.port, timeout=_TIMEOUT_S)
        self._path = f"/api/1.0/runstream/runs/{run}/metrics/live"
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        if not self._open.wait(_TIMEOUT_S):
            raise RuntimeError("the live stream does not open")

    def _listen(self) -> None:
        self._connection.request("GET", self._path)
        answer = self._connection.getresponse()
        while len(self._arrived) < self._wanted:
            line = answer.readline()
            now = time.perf_counter()
            if line.startswith(b"event: open"):
                self._open.set()
            elif line.startswith(b"data: {") and b'"step"' in line:
                for step in json.loads(line[6:])["step"]:
                    self._arrived.setdefault(step, now)
            elif not line:
                return

    def wait(self) -> dict[int, float]:
        """When each step arrived."""
        self._thread.join(_TIMEOUT_S)
        self._connection.close()
        if len(self._arrived) < self._wanted:
            raise RuntimeError(f"{len(self._arrived)} of {self._wanted} points reached the listener")
        return self._arrived
