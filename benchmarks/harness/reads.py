"""Read-back latency: the same stored points on every server, read through MLflow's REST API."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from benchmarks.harness.client import API, Client
from benchmarks.harness.curves import loss
from benchmarks.harness.workloads import START_MS

POINTS = 1000
KEY = "train/loss"
_AT_MOST = 300


@dataclass(frozen=True)
class ReadSet:
    """Runs with one series of 1,000 points each. ``probes`` lists the points logged while reading."""

    experiment_id: str
    run_ids: list[str]
    probes: list[int] = field(default_factory=list)

    @property
    def points(self) -> int:
        return POINTS * len(self.run_ids) + len(self.probes)

    def probe(self, client: Client) -> float:
        """Log one point and read the run; milliseconds of the read, which has to show the point."""
        step = len(self.probes)
        run_id = self.run_ids[step % len(self.run_ids)]
        point = {"run_id": run_id, "key": "probe", "value": step + 0.5, "timestamp": START_MS, "step": step}
        client.post(API + "runs/log-metric", point)
        self.probes.append(step)
        began = time.perf_counter()
        latest = client.latest(run_id)
        taken = (time.perf_counter() - began) * 1000
        if latest.get("probe") != step + 0.5:
            raise RuntimeError(f"get_run shows {latest.get('probe')} where {step + 0.5} was just logged")
        return taken

    @classmethod
    def write(cls, client: Client, experiment_id: str, runs: int) -> ReadSet:
        """Create the runs and log their points."""
        run_ids = client.create_runs(experiment_id, runs)
        steps = np.arange(POINTS)
        for number, run_id in enumerate(run_ids):
            metrics = [
                {"key": KEY, "value": value, "timestamp": START_MS + 250 * step, "step": step}
                for step, value in enumerate(loss(np.random.default_rng(number), steps).tolist())
            ]
            client.post(API + "runs/log-batch", {"run_id": run_id, "metrics": metrics})
        return cls(experiment_id, run_ids)


def measure_reads(client: Client, reading: ReadSet, seconds: float) -> dict[str, dict[str, float]]:
    """Median and p99 in milliseconds of each kind of read, in turns, one at a time; ``get_run`` reads a point
    logged just before it. Raises ``RuntimeError`` on a wrong answer.
    """
    runs = reading.run_ids
    kinds: dict[str, tuple[Callable[[int], int], int]] = {
        "history": (lambda i: len(client.history(runs[i % len(runs)], KEY)), POINTS),
        "bulk": (lambda i: client.history_bulk(runs[:10], KEY), POINTS * min(10, len(runs))),
        "search_runs": (lambda i: len(client.search_by_metric(reading.experiment_id, KEY)), len(runs)),
    }
    times: dict[str, list[float]] = {name: [] for name in (*kinds, "get_run")}
    deadline = time.monotonic() + seconds
    turn = 0
    while turn == 0 or (time.monotonic() < deadline and turn < _AT_MOST):
        for name, (read, expected) in kinds.items():
            began = time.perf_counter()
            got = read(turn)
            times[name].append((time.perf_counter() - began) * 1000)
            if got != expected:
                raise RuntimeError(f"{name} answered {got} where {expected} were expected")
        times["get_run"].append(reading.probe(client))
        turn += 1
    return {
        name: {
            "count": len(taken),
            "p50_ms": round(float(np.percentile(taken, 50)), 2),
            "p99_ms": round(float(np.percentile(taken, 99)), 2),
        }
        for name, taken in times.items()
    }
