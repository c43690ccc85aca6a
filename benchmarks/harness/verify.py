"""Whether nothing that was acknowledged is missing: a sample read back point by point, then the totals.

What a server may hold lies between what it acknowledged and what was sent to it: a request that was refused,
failed or lost may or may not have been stored.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.client import Client
from benchmarks.harness.load import ACKNOWLEDGED, NOT_SENT
from benchmarks.harness.workloads import Requests

_SERIES_PER_REQUEST = 3
Point = tuple[int, int, float]


@dataclass(frozen=True)
class Entry:
    """What one load sent, with the ledger of its answers."""

    row: str
    requests: Requests
    ledger: NDArray[np.uint8]
    run_ids: Sequence[str]

    def points(self, *, acknowledged: bool) -> int:
        wanted = self.ledger == ACKNOWLEDGED if acknowledged else self.ledger != NOT_SENT
        return int(np.tile(self.requests.index["points"], self.requests.passes)[wanted].sum())


@dataclass
class Verdict:
    """The outcome. ``missing`` and ``repeated`` list a few examples; totals are filled in at the end."""

    checked_points: int = 0
    missing: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    acknowledged_points: int = 0
    sent_points: int = 0
    stored_points: int | None = None

    @property
    def nothing_lost(self) -> bool:
        total = self.stored_points
        counted = total is None or self.acknowledged_points <= total <= self.sent_points
        return not self.missing and not self.repeated and counted


def check_sample(
    client: Client, entries: Sequence[Entry], verdict: Verdict, requests_per_entry: int, seed: int
) -> None:
    """Read some acknowledged requests back through MLflow's REST API and compare every point of some."""
    rng = np.random.default_rng(seed)
    for entry in entries:
        done = np.flatnonzero(entry.ledger == ACKNOWLEDGED)
        chosen = rng.choice(done, min(requests_per_entry, len(done)), replace=False)
        index = entry.requests.index
        expected: dict[tuple[str, str], list[Point]] = defaultdict(list)
        for number in sorted(int(choice) for choice in chosen):
            run_id, body = entry.requests.nth(number, entry.run_ids)
            points = parse(body)
            keys = list(dict.fromkeys(key for key, _ in points))
            picked = set(rng.choice(keys, min(_SERIES_PER_REQUEST, len(keys)), replace=False).tolist())
            for key, point in points:
                if key in picked:
                    expected[run_id, key].append(point)
        # A long series costs as much to read as many short ones: few of them are enough.
        limit = len(expected) if len(done) * int(index["points"][0]) < 2_000_000 or len(expected) > 10 else 2
        for (run_id, key), points_of_series in list(expected.items())[:limit]:
            _compare(client, entry.row, run_id, key, points_of_series, verdict)


def _compare(
    client: Client, row: str, run_id: str, key: str, expected: list[Point], verdict: Verdict
) -> None:
    stored = Counter(client.history(run_id, key))
    for point in expected:
        verdict.checked_points += 1
        where = f"{row}: run {run_id} key {key} (step, timestamp, value) {point}"
        if stored[point] == 0 and len(verdict.missing) < 10:
            verdict.missing.append(where)
        if stored[point] > 1 and len(verdict.repeated) < 10:
            verdict.repeated.append(where)


def parse(body: bytes) -> list[tuple[str, Point]]:
    """The points of a request's body, as a server must understand it."""
    request = json.loads(body)
    metrics = request.get("metrics", [request])
    return [(m["key"], (int(m["step"]), int(m["timestamp"]), float(m["value"]))) for m in metrics]


def count(entries: Sequence[Entry], verdict: Verdict) -> None:
    """Add the ledgers' totals."""
    for entry in entries:
        verdict.acknowledged_points += entry.points(acknowledged=True)
        verdict.sent_points += entry.points(acknowledged=False)
