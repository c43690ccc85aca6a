"""A load as the rest of the harness sees it: what to send, and what came of it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What the ledger says of a request.
NOT_SENT, ACKNOWLEDGED, REFUSED, FAILED, LOST = range(5)
# How long answers are waited for after the last request was sent.
GRACE_S = 45.0


@dataclass(frozen=True)
class Job:
    """One load.

    Closed loop without ``rate`` (each connection sends its next request when its last is answered). With
    ``rate`` (requests per second) requests fall due at even intervals and latency counts from then, unless
    ``drop_late``: then a request that finds no free connection when it is due is left out, and latency counts
    from sending. Bodies are sent again in each of the ``passes``, as ``workloads.replayed``.
    """

    host: str
    port: int
    path: str
    bodies: str
    index: str
    run_ids: list[str]
    connections: int
    seconds: float
    out: str
    rate: float | None = None
    drop_late: bool = False
    first: int = 0
    stop_after: int | None = None
    passes: int = 1


@dataclass
class LoadResult:
    """What a load did. ``latency_ms`` is of acknowledged requests; times are monotonic seconds."""

    sent: int
    acknowledged: int
    acknowledged_points: int
    refused: int
    failed: int
    lost: int
    left_out: int
    retry_after: int
    started: float
    ended: float
    cpu_s: float
    exhausted: bool
    statuses: dict[str, int] = field(default_factory=dict)
    first_error: str = ""
    ledger: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    latency_ms: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    finished_at: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @property
    def steady_s(self) -> float:
        """Seconds until 95% of the acknowledged requests were answered: a few that hang for a server's whole
        lock timeout say something about latency, and nothing about the rate.
        """
        if not len(self.finished_at):
            return max(self.ended - self.started, 1e-9)
        last = np.sort(self.finished_at)[self.steady - 1]
        return max(float(last) - self.started, 1e-9)

    @property
    def steady(self) -> int:
        """How many requests were acknowledged within ``steady_s``."""
        return math.ceil(0.95 * len(self.finished_at))

    def percentile(self, share: float) -> float | None:
        return float(np.percentile(self.latency_ms, share)) if len(self.latency_ms) else None


class Load:
    """A generator process under way; ``result`` waits for it."""

    def __init__(self, job: Job) -> None:
        self._out = Path(job.out)
        self._out.parent.mkdir(parents=True, exist_ok=True)
        job_file = self._out.with_suffix(".job.json")
        job_file.write_text(json.dumps(asdict(job)))
        root = Path(__file__).resolve().parents[2]
        self._limit_s = job.seconds + 2 * GRACE_S + 60
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.harness.generator", str(job_file)], cwd=root
        )

    def result(self) -> LoadResult:
        """Raises ``RuntimeError`` if the generator failed and ``TimeoutExpired`` if it hangs."""
        try:
            status = self.process.wait(self._limit_s)
        finally:
            self.process.kill()
        if status != 0:
            raise RuntimeError(f"the load generator ended with status {status}")
        facts: dict[str, Any] = json.loads(self._out.with_suffix(".json").read_text())
        with np.load(self._out.with_suffix(".npz")) as arrays:
            return LoadResult(**facts, **{name: arrays[name] for name in arrays.files})
