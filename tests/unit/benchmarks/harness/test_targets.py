"""The benchmark's verdicts: met, missed, or not measured."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.targets import Target, judge


def _row(row: str, server: str = "runstream", **facts: Any) -> dict[str, Any]:
    return {"row": row, "server": server, **facts}


def _verdicts(targets: list[Target]) -> dict[str, bool | None]:
    return {target.target: target.met for target in targets}


def test_nothing_measured_is_no_verdict() -> None:
    assert {target.met for target in judge([], [])} == {None}
    assert {target.met for target in judge([_row("batch-1000", error="it broke")], [])} == {None}


def test_met_and_missed() -> None:
    table = [
        _row("batch-1000", readable_points_per_s=700_000, p99_ms=251, drain_s=0.5),
        _row("batch-1000", "mlflow-sqlite", readable_points_per_s=3_000),
        _row("batch-1000", "mlflow-postgres", readable_points_per_s=5_000),
        _row("batch-1000", "runstream-kafka", readable_points_per_s=199_999, drain_s=6),
        _row("series", readable_points_per_s=350_000),
        _row("long-keys", readable_points_per_s=349_999),
        _row("base", points_per_s=100),
        _row("overload", points_per_s=95, failed=1, lost=0, refused=7, refused_with_retry_after=7),
        _row("retry", at_10k={"points": 1e4, "repeat_ms": 4}, at_many={"points": 1e7, "repeat_ms": 40}),
    ]
    targets = judge(table, [{"server": "runstream", "bytes_per_point": 4.24}])
    verdicts = _verdicts(targets)
    assert verdicts["≥ 600,000 points/s, readable"] is True
    assert verdicts["≥ 150 times stock MLflow"] is False
    assert verdicts["≤ 250 p99 at saturation, ms"] is False
    assert verdicts["≥ 200,000 points/s, readable"] is False
    assert verdicts["≤ 4.5 bytes per point"] is True
    assert verdicts["same cost whatever the run holds"] is False
    assert verdicts["≥ 0.9 of the goodput without it"] is True
    assert verdicts["≤ 0 answers that are not 200, nor 429 or 503 with Retry-After"] is False
    assert [t.met for t in targets if "half of the first row" in t.target] == [True, False]


def test_growing_memory_is_not_flat() -> None:
    for slope, flat in ((0, True), (4_000_000, False)):
        samples = [
            (float(at), {"storage": 500_000_000 + slope * at, "gateway": 9}) for at in range(0, 600, 5)
        ]
        targets = judge([_row("memory", memory=samples, peak_bytes={"gateway": 9, "storage": 6e8})], [])
        [verdict] = [target for target in targets if target.target.startswith("flat")]
        assert verdict.met is flat
