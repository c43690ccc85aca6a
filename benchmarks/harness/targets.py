"""What Runstream is meant to reach on two cores, beside what a benchmark measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]
_MB = 1e6


@dataclass(frozen=True)
class Target:
    """One line. ``met`` is ``None`` if the rows that tell were not run."""

    load: str
    target: str
    measured: str
    met: bool | None


def judge(table: Sequence[Result], sessions: Sequence[Result]) -> list[Target]:
    """Every target, in the order of the table; ``table`` as ``report.combine`` makes it."""
    found = _Table(table)
    first = found.figure("batch-1000", "readable_points_per_s")
    peers = [
        found.figure("batch-1000", "readable_points_per_s", f"mlflow-{db}") for db in ("sqlite", "postgres")
    ]
    known = [rate for rate in peers if rate]
    stock = max(known) if known else None
    return [
        _least("log-batch of 1,000, 32 connections", "points/s, readable", first, 600_000),
        _least("", "times stock MLflow", first / stock if first and stock else None, 150),
        _most("", "gateway, ms of CPU per 1,000 points", found.cpu("batch-1000", "gateway"), 1.0, 2),
        _most("", "writer and query, ms of CPU per 1,000 points", found.cpu("batch-1000", "storage"), 1.1, 2),
        _most("", "p99 at saturation, ms", found.figure("batch-1000", "p99_ms"), 250),
        _most("the same at half its rate", "p99, ms", found.figure("half", "p99_ms"), 25, 1),
        _least(
            "log-batch of 100, 64 connections", "points/s", found.figure("batch-100", "points_per_s"), 350_000
        ),
        _most("", "p99, ms", found.figure("batch-100", "p99_ms"), 100, 1),
        _least(
            "log-metric, 64 connections", "requests/s", found.figure("log-metric", "requests_per_s"), 20_000
        ),
        _most("", "p99, ms", found.figure("log-metric", "p99_ms"), 10, 1),
        _most(
            "1,000 writers on one run",
            "refused or failed requests",
            found.sum("one-run", "refused", "failed", "lost"),
            0,
        ),
        _retry(found),
        _half("1,000,000 series in one run", found.figure("series", "readable_points_per_s"), first),
        _half("keys of 250 characters", found.figure("long-keys", "readable_points_per_s"), first),
        *_kafka(found),
        _most(
            "size at rest, merged",
            "bytes per point",
            _middle(
                [
                    s["bytes_per_point"]
                    for s in sessions
                    if s["server"] == "runstream" and "bytes_per_point" in s
                ]
            ),
            4.5,
            2,
        ),
        *_memory(found),
        _most("lag", "seconds until all can be read", found.figure("batch-1000", "drain_s"), 5, 2),
        _most("reads at full load", "get_run p99, ms", found.read("get_run"), 500),
        _most("", "history of 1,000 points p99, ms", found.read("history"), 250),
        *_overload(found),
    ]


class _Table:
    def __init__(self, table: Sequence[Result]) -> None:
        self._entries = {(entry["row"], entry["server"]): entry for entry in table if "error" not in entry}

    def entry(self, row: str, server: str = "runstream") -> Result:
        return self._entries.get((row, server), {})

    def figure(self, row: str, name: str, server: str = "runstream") -> float | None:
        value = self.entry(row, server).get(name)
        return None if value is None else float(value)

    def sum(self, row: str, *names: str) -> float | None:
        entry = self.entry(row)
        return sum(float(entry[name]) for name in names) if entry else None

    def cpu(self, row: str, role: str) -> float | None:
        """CPU seconds per million points are milliseconds per thousand."""
        value = self.entry(row).get("cpu_s_per_million_by_role", {}).get(role)
        return None if value is None else float(value)

    def read(self, kind: str) -> float | None:
        value = self.entry("reads-at-load").get("reads", {}).get(kind, {}).get("p99_ms")
        return None if value is None else float(value)


def _line(
    load: str,
    what: str,
    measured: float | None,
    bound: float,
    sign: str,
    digits: int,
    met: Callable[[float], bool],
) -> Target:
    shown = "-" if measured is None else f"{measured:,.{digits}f}"
    return Target(load, f"{sign} {bound:,g} {what}", shown, None if measured is None else met(measured))


def _least(load: str, what: str, measured: float | None, bound: float) -> Target:
    return _line(load, what, measured, bound, "≥", 0, lambda value: value >= bound)


def _most(load: str, what: str, measured: float | None, bound: float, digits: int = 0) -> Target:
    return _line(load, what, measured, bound, "≤", digits, lambda value: value <= bound)


def _half(load: str, rate: float | None, first: float | None) -> Target:
    what = "≥ half of the first row's readable points/s"
    if rate is None or not first:
        return Target(load, what, "-", None)
    return Target(load, what, f"{rate:,.0f} ({rate / first:.2f})", rate >= first / 2)


def _retry(found: _Table) -> Target:
    load, what = "a retried batch", "same cost whatever the run holds"
    entry = found.entry("retry")
    if "at_many" not in entry:
        return Target(load, what, "-", None)
    few, many = entry["at_10k"], entry["at_many"]
    shown = f"{few['repeat_ms']:.1f} ms at {few['points']:,.0f}, {many['repeat_ms']:.1f} ms at {many['points']:,.0f}"
    # A few milliseconds either way are the disk's.
    return Target(load, what, shown, many["repeat_ms"] <= 1.5 * few["repeat_ms"] + 2)


def _kafka(found: _Table) -> list[Target]:
    rate = found.figure("batch-1000", "readable_points_per_s", "runstream-kafka")
    drain = found.figure("batch-1000", "drain_s", "runstream-kafka")
    return [
        _least("Kafka, one broker", "points/s, readable", rate, 200_000),
        _most("", "seconds until all can be read", drain, 5, 2),
    ]


def _memory(found: _Table) -> list[Target]:
    """From ten minutes of load if that was run, else from the longest row of the benchmark."""
    row = "memory" if found.entry("memory") else "batch-1000"
    entry = found.entry(row)
    peaks = entry.get("peak_bytes", {})
    samples = [(at, sum(roles.values())) for at, roles in entry.get("memory", [])]
    seconds = samples[-1][0] if samples else 0.0
    lines = [
        _most(f"memory, {seconds:.0f} s at full load", "MB gateway", _mb(peaks.get("gateway")), 300),
        _most("", "MB writer and query", _mb(peaks.get("storage")), 1500),
    ]
    late = [size for at, size in samples if at > seconds * 5 / 6]
    middle = [size for at, size in samples if seconds / 2 < at <= seconds * 4 / 6]
    if seconds < 50 or not late or not middle:
        return [*lines, Target("", "flat", "-", None)]
    growth = sum(late) / len(late) / (sum(middle) / len(middle)) - 1
    shown = f"{growth:+.1%} from the middle to the end"
    return [*lines, Target("", "flat: ≤ 5% more at the end than in the middle", shown, growth <= 0.05)]


def _overload(found: _Table) -> list[Target]:
    load, base, entry = "twice the rate offered", found.entry("base"), found.entry("overload")
    if not base or not entry:
        return [Target(load, "full goodput; only 429 and 503, with Retry-After", "-", None)]
    share = entry["points_per_s"] / base["points_per_s"]
    wrong = entry["failed"] + entry["lost"] + entry["refused"] - entry["refused_with_retry_after"]
    return [
        Target(load, "≥ 0.9 of the goodput without it", f"{share:.2f}", share >= 0.9),
        _most("", "answers that are not 200, nor 429 or 503 with Retry-After", wrong, 0),
    ]


def _mb(size: float | None) -> float | None:
    return None if size is None else size / _MB


def _middle(values: Sequence[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None
