"""Load with an independent ledger: which points were acknowledged, and whether a server still has exactly those.

Nothing of Runstream's is used here, only the REST API: bodies are built, retried and counted by this file alone.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from support.mlflow_client import Rest

Point = tuple[int, int, float]  # step, timestamp, value: a series is ordered like this tuple
T0 = 1_700_000_000_000
REQUEST_TIMEOUT_S = 120.0  # as the stock client
RETRIED = (408, 429, 500, 502, 503, 504)  # as the stock client does
KEYS = ("loss", "acc", "grad/norm", "lr", "val loss")


@dataclass
class Ledger:
    """What one run was sent. ``acknowledged`` must be there; ``uncertain`` (sent, never answered) may be there."""

    run_id: str
    acknowledged: dict[str, set[Point]] = field(default_factory=dict)
    uncertain: dict[str, set[Point]] = field(default_factory=dict)

    def settle(self, points: list[tuple[str, Point]], *, acknowledged: bool) -> None:
        """Enter the points of one request, with its outcome."""
        book = self.acknowledged if acknowledged else self.uncertain
        for key, point in points:
            book.setdefault(key, set()).add(point)

    def count(self) -> int:
        """Number of acknowledged points."""
        return sum(len(points) for points in self.acknowledged.values())

    def faults(self, rest: Rest) -> list[str]:
        """Differences between the ledger and the server: empty if every acknowledged point is there exactly once."""
        faults = []
        newest = {}
        for key in sorted(self.acknowledged.keys() | self.uncertain.keys()):
            wanted = self.acknowledged.get(key, set())
            allowed = wanted | self.uncertain.get(key, set())
            rows = [(p["step"], p["timestamp"], p["value"]) for p in rest.history(self.run_id, key)]
            found = Counter(rows)
            where = f"run {self.run_id} key {key!r}"
            if missing := wanted - found.keys():
                faults.append(f"{where}: {len(missing)} of {len(wanted)} lost, first {min(missing)}")
            if unknown := found.keys() - allowed:
                faults.append(f"{where}: {len(unknown)} never sent, first {min(unknown)}")
            if repeated := [point for point, times in found.items() if times > 1]:
                faults.append(f"{where}: {len(repeated)} more than once, first {min(repeated)}")
            if rows != sorted(rows, key=lambda p: (p[1], p[0], p[2])):
                faults.append(f"{where}: not in order")
            if rows:
                newest[key] = max(rows)[2]
        run = rest.get("api/2.0/mlflow/runs/get", run_id=self.run_id)["run"]
        shown = {m["key"]: m["value"] for m in run["data"].get("metrics", [])}
        if shown != newest:
            faults.append(f"run {self.run_id}: newest values {shown}, but the histories say {newest}")
        return faults


@dataclass(frozen=True)
class Refusal:
    """An answer other than 200, or none at all (``status`` 0)."""

    status: int
    retry_after: str | None
    body: str


class Load:
    """Threads that log unique points, each to a run of its own, and repeat a refused request until it is accepted.

    ``ledgers`` hold the outcome and ``refusals`` what was not accepted at once. A request still unanswered at
    ``stop`` counts as uncertain. An answer that may not be retried ends its thread and is listed in ``errors``.
    """

    def __init__(
        self, url: str, run_ids: list[str], *, seed: int, pause_s: float = 0.02, max_points: int = 100
    ) -> None:
        self.ledgers = [Ledger(run_id) for run_id in run_ids]
        self.refusals: list[Refusal] = []
        self.errors: list[str] = []
        self._address = urlsplit(url).netloc
        self._pause_s = pause_s
        self._max_points = max_points
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(ledger, random.Random(f"{seed}-{number}")), daemon=True)
            for number, ledger in enumerate(self.ledgers)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, within_s: float = REQUEST_TIMEOUT_S) -> None:
        """End the load: requests under way are finished once, and not repeated."""
        self._stop.set()
        for thread in self._threads:
            thread.join(within_s)
            assert not thread.is_alive(), "a request hangs"

    def count(self) -> int:
        """Points acknowledged so far."""
        return sum(ledger.count() for ledger in self.ledgers)

    def await_progress(self, points: int = 200, within_s: float = 60.0) -> None:
        """Wait until that many more points are acknowledged."""
        target = self.count() + points
        deadline = time.monotonic() + within_s
        while self.count() < target:
            assert not self.errors, self.errors
            assert time.monotonic() < deadline, f"no progress; last refusals {self.refusals[-3:]}"
            time.sleep(0.01)

    def _work(self, ledger: Ledger, chance: random.Random) -> None:
        try:
            with _Connection(self._address) as connection:
                steps = itertools.count()
                while not self._stop.is_set():
                    points = [
                        (chance.choice(KEYS), _point(next(steps), chance)) for _ in range(self._size(chance))
                    ]
                    ledger.settle(points, acknowledged=self._send(connection, ledger.run_id, points))
                    self._stop.wait(self._pause_s * chance.random())
        except Exception as error:
            self.errors.append(repr(error))

    def _size(self, chance: random.Random) -> int:
        return 1 if chance.random() < 0.3 else chance.randint(2, self._max_points)

    def _send(self, connection: _Connection, run_id: str, points: list[tuple[str, Point]]) -> bool:
        path, body = _request(run_id, points)
        while True:
            status, headers, text = connection.post(path, body)
            if status == 200:
                return True
            self.refusals.append(Refusal(status, headers.get("Retry-After"), text[:500]))
            if status and status not in RETRIED:
                raise AssertionError(f"{status} {text[:500]}")
            if self._stop.wait(0.05):
                return False


class _Connection:
    """A keep-alive connection that is opened anew after a failure."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=REQUEST_TIMEOUT_S)

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def post(self, path: str, body: bytes) -> tuple[int, dict[str, str], str]:
        """Status (0 if there was no answer), headers and text."""
        try:
            self._connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            if isinstance(error, TimeoutError):
                raise AssertionError(f"no answer within {REQUEST_TIMEOUT_S} s") from error
            return 0, {}, repr(error)


def _point(step: int, chance: random.Random) -> Point:
    # Steps and timestamps run both ways, so that the newest point is often not the last to arrive.
    return step ^ 3, T0 + chance.randint(-50, 50), chance.choice([chance.random(), -1e300, 0.1 + 0.2, 5e-324])


def _request(run_id: str, points: list[tuple[str, Point]]) -> tuple[str, bytes]:
    entries: list[dict[str, Any]] = [
        {"key": key, "value": value, "timestamp": timestamp, "step": step}
        for key, (step, timestamp, value) in points
    ]
    if len(entries) == 1:
        return "/api/2.0/mlflow/runs/log-metric", json.dumps({"run_id": run_id, **entries[0]}).encode()
    return "/api/2.0/mlflow/runs/log-batch", json.dumps({"run_id": run_id, "metrics": entries}).encode()
