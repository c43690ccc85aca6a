"""Runs one session of rows on one contender."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import verify
from benchmarks.harness.client import Client
from benchmarks.harness.load import ACKNOWLEDGED, Job, Load, LoadResult
from benchmarks.harness.measure import Meter, Usage, calibrate
from benchmarks.harness.reads import ReadSet, measure_reads
from benchmarks.harness.rows import PEER_SECONDS, SEED, Profile, Row, Session
from benchmarks.harness.verify import Entry, Verdict
from benchmarks.harness.workloads import Requests
from benchmarks.systems.base import Server

_DRAIN_LIMIT_S = 60.0
# Each costs a read, which counts into the drain.
_DRAIN_SERIES = 6
Result = dict[str, Any]


class SessionRun:
    """One contender's turn. ``results`` has a dictionary per row, ``summary`` the session's own figures.

    Rows that would begin after ``deadline`` (monotonic) are left out.
    """

    def __init__(
        self,
        server: Server,
        session: Session,
        profile: Profile,
        bodies: dict[str, Requests],
        folder: Path,
        deadline: float = math.inf,
    ) -> None:
        self._deadline = deadline
        self._server = server
        self._session = session
        self._profile = profile
        self._bodies = bodies
        self._folder = folder
        self._entries: list[Entry] = []
        self._kinds: dict[str, Callable[[Row], Result]] = {
            "load": self._load,
            "memory": self._load,
            "half": self._half,
            "overload": self._overload,
            "reads": self._reads,
            "reads-at-load": self._reads_at_load,
            "retry": self._retry,
        }
        self._base_rate: float | None = None
        self.results: list[Result] = []
        self.summary: Result = {}

    def run(self, say: Callable[[str], None]) -> None:
        """Start the server, run every row, verify, stop. Raises what a server's start raises."""
        began = time.monotonic()
        try:
            self._server.start()
            started_s = time.monotonic() - began
            with Client(self._server.host, self._server.port) as client:
                self._client = client
                self._prepare()
                for row in self._session.rows:
                    self.results.append(self._measured(row))
                    say(_line(self.results[-1]))
                verdict = self._verify()
            self._server.stop_serving()
            verdict.stored_points = self._server.stored_points()
            self.summary = {
                "server": self._server.name,
                "session": self._session.name,
                "start_s": round(started_s, 2),
                "verdict": asdict(verdict) | {"nothing_lost": verdict.nothing_lost},
            }
            if self._session.size and verdict.stored_points:
                self.summary["bytes_per_point"] = self._server.stored_bytes() / verdict.stored_points
        finally:
            self._server.stop()

    def _prepare(self) -> None:
        rows = self._session.rows
        experiment = self._client.create_experiment("bench")
        needed = max(row.shape.runs for row in rows if row.kind != "reads")
        shared = self._client.create_runs(experiment, needed)
        self._runs: dict[str, list[str]] = {}
        for row in rows:
            # Rows that fill one run get one of their own.
            alone = row.shape.runs == 1 and row.kind != "reads"
            self._runs[row.name] = [self._client.create_run(experiment)] if alone else shared
        reading = self._client.create_experiment("reads")
        self._reading = ReadSet.write(self._client, reading, self._profile.read_runs)

    def _measured(self, row: Row) -> Result:
        calibration = calibrate()
        began = time.monotonic()
        try:
            if began > self._deadline:
                raise RuntimeError("no time left")
            result = self._kinds[row.kind](row)
        except Exception as error:  # whatever a row meets, the others have to run
            result = {"error": f"{type(error).__name__}: {error}"}
        return {
            "server": self._server.name,
            "session": self._session.name,
            "row": row.name,
            "title": row.title,
            "wall_s": round(time.monotonic() - began, 2),
            "calibration": asdict(calibration),
            **result,
        }

    def _job(self, row: Row, **changes: Any) -> Job:
        requests = self._bodies[body_name(self._session, row)]
        seconds = min(row.seconds, PEER_SECONDS) if self._server.peer else row.seconds
        job = Job(
            host=self._server.host,
            port=self._server.port,
            path=requests.path,
            bodies=str(requests.bodies),
            index=str(requests.index_file),
            run_ids=self._runs[row.name],
            connections=row.connections,
            seconds=seconds,
            passes=requests.passes,
            out=str(self._folder / f"{self._server.name}-{self._session.name}-{row.name}"),
        )
        return replace(job, **changes)

    def _meter(self) -> Meter:
        return Meter(self._server.roots(), self._server.role).start()

    def _load(self, row: Row, **changes: Any) -> Result:
        meter = self._meter()
        result = Load(self._job(row, **changes)).result()
        entry = self._remember(row, result)
        drain_s = self._drain(row, entry, result)
        facts = _load_facts(result, drain_s) | _usage_facts(meter.stop(), result)
        if row.kind == "load" and row.shape.points == 1000 and self._base_rate is None:
            # What can be sustained, and not what can be taken in for a while.
            self._base_rate = result.steady / (result.steady_s + (drain_s or 0.0))
        return facts

    def _half(self, row: Row) -> Result:
        rate = 0.5 * self._rate()
        return self._load(row, rate=rate) | {"offered_requests_per_s": rate}

    def _overload(self, row: Row) -> Result:
        rate = 2 * self._rate()
        return self._load(row, rate=rate, drop_late=True) | {"offered_requests_per_s": rate}

    def _rate(self) -> float:
        if not self._base_rate:
            raise RuntimeError("the row that sets the rate has failed")
        return self._base_rate

    def _reads(self, row: Row) -> Result:
        meter = self._meter()
        reads = measure_reads(self._client, self._reading, row.seconds)
        return {"reads": reads} | _usage_facts(meter.stop(), None)

    def _reads_at_load(self, row: Row) -> Result:
        meter = self._meter()
        job = self._job(row)
        load = Load(job)
        time.sleep(min(1.0, job.seconds / 4))  # the load is at its height when the reads begin
        reads = measure_reads(self._client, self._reading, job.seconds * 0.75 - 0.5)
        result = load.result()
        drain_s = self._drain(row, self._remember(row, result), result)
        return {"reads": reads} | _load_facts(result, drain_s) | _usage_facts(meter.stop(), result)

    def _retry(self, row: Row) -> Result:
        """Fill a run with 10,000 points, then with many; each time send one batch again and again."""
        entry_facts: Result = {}
        total = len(self._bodies[body_name(self._session, row)].index)
        fills = ((0, 10, "at_10k"), (10, total - 10, "at_many"))
        run_id = self._runs[row.name][0]
        filled = 0
        meter = self._meter()
        for first, stop_after, name in fills:
            job = self._job(row, first=first, stop_after=stop_after)
            result = Load(replace(job, out=f"{job.out}-{name}")).result()
            entry = self._remember(row, result)
            filled += result.acknowledged_points
            again = entry.requests.body(entry.requests.index[0], run_id)
            times = []
            for _ in range(10):
                began = time.perf_counter()
                self._client.post(entry.requests.path, again)
                times.append((time.perf_counter() - began) * 1000)
            entry_facts[name] = {"points": filled, "repeat_ms": round(float(np.median(times)), 2)}
        return entry_facts | _usage_facts(meter.stop(), None)

    def _remember(self, row: Row, result: LoadResult) -> Entry:
        requests = self._bodies[body_name(self._session, row)]
        entry = Entry(row.name, requests, result.ledger, self._runs[row.name])
        self._entries.append(entry)
        return entry

    def _drain(self, row: Row, entry: Entry, result: LoadResult) -> float | None:
        """Seconds from the last acknowledgement until what was acknowledged last can be read."""
        done = np.flatnonzero(entry.ledger == ACKNOWLEDGED)[-_DRAIN_SERIES:]
        deadline = time.monotonic() + _DRAIN_LIMIT_S
        if row.shape.runs == 1 and row.shape.series is None:
            # One run with few keys: its histories are long, and reading one would take longer than the drain.
            self._client.latest(entry.run_ids[0])
            return max(0.0, time.monotonic() - result.ended)
        for number in reversed(done.tolist()):
            run_id, body = entry.requests.nth(number, entry.run_ids)
            key, point = verify.parse(body)[-1]
            while point not in self._client.history(run_id, key):
                if time.monotonic() > deadline:
                    return None
                time.sleep(0.02)
        return max(0.0, time.monotonic() - result.ended)

    def _verify(self) -> Verdict:
        verdict = Verdict()
        verify.check_sample(self._client, self._entries, verdict, self._profile.sample_requests, SEED)
        verify.count(self._entries, verdict)
        verdict.acknowledged_points += self._reading.points
        verdict.sent_points += self._reading.points
        return verdict


def body_name(session: Session, row: Row) -> str:
    """Where a row's bodies are kept; sessions of one name share them."""
    return f"{session.name}-{row.name}"


def _load_facts(result: LoadResult, drain_s: float | None) -> Result:
    seconds = result.steady_s
    points = result.acknowledged_points / max(result.acknowledged, 1) * result.steady
    drain_s = None if drain_s is None else round(drain_s, 3)
    return {
        "sent": result.sent,
        "acknowledged": result.acknowledged,
        "points": result.acknowledged_points,
        "refused": result.refused,
        "refused_with_retry_after": result.retry_after,
        "failed": result.failed,
        "lost": result.lost,
        "left_out": result.left_out,
        "bodies_ran_out": result.exhausted,
        "statuses": result.statuses,
        "first_error": result.first_error,
        "seconds": seconds,
        "last_answer_s": result.ended - result.started,
        "points_per_s": points / seconds,
        "requests_per_s": result.steady / seconds,
        "p50_ms": result.percentile(50),
        "p99_ms": result.percentile(99),
        "max_ms": result.percentile(100),
        "drain_s": drain_s,
        "readable_points_per_s": None if drain_s is None else points / (seconds + drain_s),
    }


def _usage_facts(usage: Usage, result: LoadResult | None) -> Result:
    facts: Result = {
        "cpu_s": usage.cpu_s,
        "peak_bytes": usage.peak_bytes,
        "peak_total_bytes": usage.peak_total_bytes,
        "memory": usage.memory,
        "foreign_share": usage.foreign_share,
        "stolen_share": usage.stolen_share,
        "disturbed": usage.disturbed,
    }
    if result is not None and result.acknowledged_points:
        millions = result.acknowledged_points / 1e6
        facts["cpu_s_per_million"] = usage.total_cpu_s / millions
        facts["cpu_s_per_million_by_role"] = {role: used / millions for role, used in usage.cpu_s.items()}
        facts["generator_cpu_s"] = result.cpu_s
    return facts


def _line(result: Result) -> str:
    mark = " (disturbed)" if result.get("disturbed") else ""
    if "error" in result:
        said = result["error"]
    elif "points_per_s" in result and result["p50_ms"] is not None:
        said = (
            f"{result['points_per_s']:,.0f} points/s, {result['requests_per_s']:,.0f} requests/s,"
            f" p50 {result['p50_ms']:.1f} ms, p99 {result['p99_ms']:.1f} ms, drained in {result['drain_s']} s"
        )
        if result["failed"] or result["lost"]:
            said += f", {result['failed']} failed, {result['lost']} lost"
    else:
        said = ", ".join(
            f"{name} {facts}" for name, facts in result.items() if name in ("reads", "at_10k", "at_many")
        )
    return f"  {result['server']:22} {result['row']:14} {said}{mark}"
