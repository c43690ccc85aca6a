"""The benchmark harness works, and can tell when something is missing. Asserts no time."""

from __future__ import annotations

import itertools
import json
import socketserver
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import numpy as np
import pytest

from benchmarks.harness import verify, workloads
from benchmarks.harness.client import Client
from benchmarks.harness.load import ACKNOWLEDGED, FAILED, LOST, REFUSED, Job, Load
from benchmarks.harness.verify import Entry, Verdict
from benchmarks.harness.workloads import REPLAYED_BASE, Shape

_ROOT = Path(__file__).resolve().parents[2]
_ROWS = {"batch-1000", "batch-100", "log-metric", "overload", "retry", "reads"}

SHAPES = [
    Shape(runs=3, keys=50, points=1000, requests=40),
    Shape(runs=5, keys=50, points=30, requests=60, step_base=1000),
    Shape(runs=4, keys=10, points=1, requests=300, single=True),
    Shape(runs=1, keys=1, points=100, requests=25, series=1000),
    Shape(runs=2, keys=20, points=100, requests=10, key_length=250),
    Shape(runs=2, keys=20, points=100, requests=10, step_base=REPLAYED_BASE, passes=3),
    Shape(runs=1, keys=1, points=100, requests=10, step_base=REPLAYED_BASE, series=1000, passes=12),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bodies_are_repeatable_and_points_unique(shape: Shape, tmp_path: Path) -> None:
    requests = workloads.build(shape, tmp_path / "one", seed=7)
    again = workloads.build(shape, tmp_path / "two", seed=7)
    assert requests.bodies.read_bytes() == again.bodies.read_bytes()
    seen: Counter[tuple[int, str, int]] = Counter()
    run_ids = [f"{run:032x}" for run in range(shape.runs)]
    for number in range(shape.requests * shape.passes):
        entry = requests.index[number % shape.requests]
        run_id, body = requests.nth(number, run_ids)
        assert run_id == run_ids[int(entry["run"])]
        points = verify.parse(body)
        assert len(points) == entry["points"] == shape.points
        for key, (step, _, value) in points:
            assert step >= shape.step_base
            assert np.isfinite(value)
            assert len(key) == (shape.key_length or len(key))
            seen[int(entry["run"]), key, step] += 1
    assert max(seen.values()) == 1
    assert len(requests.index) == shape.requests


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
ANSWERS = [
    [OK],
    [OK[:30], OK[30:]],
    [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", b"0\r\n\r\n"],
    [b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\n{}"],
    [b"HTTP/1.1 400 Bad\r\nConnection: close\r\nContent-Length: 5\r\n\r\nwrong", b""],
    [OK[:20], b""],
    [b""],
]
VERDICTS = [ACKNOWLEDGED, ACKNOWLEDGED, ACKNOWLEDGED, REFUSED, FAILED, LOST, LOST]


class _Scripted(socketserver.StreamRequestHandler):
    """Answers the n-th request with the n-th answer, piece by piece; an empty piece closes the connection."""

    served: ClassVar[Iterator[int]]

    def handle(self) -> None:
        while self.rfile.readline().startswith(b"POST"):
            length = 0
            while line := self.rfile.readline().strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line[15:])
            self.rfile.read(length)
            for piece in ANSWERS[next(self.served) % len(ANSWERS)]:
                if not piece:
                    return
                self.wfile.write(piece)
                self.wfile.flush()


def test_the_ledger_knows_what_came_of_each_request(tmp_path: Path) -> None:
    requests = workloads.build(
        Shape(runs=1, keys=2, points=2, requests=3 * len(ANSWERS)), tmp_path / "bodies", seed=1
    )
    handler = type("Handler", (_Scripted,), {"served": itertools.count()})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        job = Job(
            host="127.0.0.1",
            port=server.server_address[1],
            path=requests.path,
            bodies=str(requests.bodies),
            index=str(requests.index_file),
            run_ids=["a" * 32],
            connections=1,
            seconds=30,
            out=str(tmp_path / "out"),
        )
        result = Load(job).result()
        server.shutdown()
    assert result.ledger.tolist() == 3 * VERDICTS
    assert (result.acknowledged, result.refused, result.failed, result.lost) == (9, 3, 3, 6)
    assert (result.retry_after, result.acknowledged_points, result.sent) == (3, 18, 21)


@pytest.fixture
def client(runstream_url: str) -> Iterator[Client]:
    address = urlsplit(runstream_url)
    assert address.hostname is not None
    assert address.port is not None
    with Client(address.hostname, address.port) as client:
        yield client


def _load(client: Client, folder: Path, name: str) -> Entry:
    """Six small requests, sent by the generator."""
    requests = workloads.build(Shape(runs=2, keys=5, points=20, requests=6), folder / "bodies", seed=1)
    run_ids = client.create_runs(client.create_experiment(name), 2)
    host, port = client.address
    job = Job(
        host=host,
        port=port,
        path=requests.path,
        bodies=str(requests.bodies),
        index=str(requests.index_file),
        run_ids=run_ids,
        connections=3,
        seconds=30,
        out=str(folder / "out"),
    )
    result = Load(job).result()
    assert result.acknowledged == 6
    assert result.exhausted
    assert len(result.latency_ms) == 6
    return Entry(name, requests, result.ledger, run_ids)


def test_the_check_passes_on_what_is_there_and_fails_on_what_is_not(client: Client, tmp_path: Path) -> None:
    entry = _load(client, tmp_path, "kept")
    verdict = Verdict()
    verify.check_sample(client, [entry], verdict, requests_per_entry=6, seed=0)
    verify.count([entry], verdict)
    verdict.stored_points = 120
    assert verdict.nothing_lost
    assert verdict.checked_points > 0
    assert (verdict.acknowledged_points, verdict.sent_points) == (120, 120)

    for stored in (119, 121):
        assert not replace(verdict, stored_points=stored).nothing_lost

    # Points of other runs' ledger are not in these runs.
    swapped = replace(entry, run_ids=entry.run_ids[::-1])
    wrong = Verdict()
    verify.check_sample(client, [swapped], wrong, requests_per_entry=6, seed=0)
    assert wrong.missing
    assert not wrong.nothing_lost


def test_a_request_that_failed_may_or_may_not_be_stored(client: Client, tmp_path: Path) -> None:
    entry = _load(client, tmp_path, "unsure")
    ledger = entry.ledger.copy()
    ledger[0] = FAILED
    verdict = Verdict()
    verify.count([replace(entry, ledger=ledger)], verdict)
    assert (verdict.acknowledged_points, verdict.sent_points) == (100, 120)
    assert int((ledger == ACKNOWLEDGED).sum()) == 5
    for stored, kept in ((99, False), (100, True), (120, True), (121, False)):
        assert replace(verdict, stored_points=stored).nothing_lost is kept


@pytest.mark.timeout(600)
@pytest.mark.slow_suite
def test_the_whole_harness_runs_and_nothing_is_lost(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--smoke",
        "--servers",
        "runstream",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=450, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads((tmp_path / "latest.json").read_text())
    results = {result["row"]: result for result in outcome["results"]}
    assert set(results) == _ROWS
    for result in results.values():
        assert "error" not in result
        assert result.get("failed", 0) == result.get("lost", 0) == 0
    for row in ("batch-1000", "batch-100", "log-metric", "overload"):
        assert results[row]["acknowledged"] > 0
        assert results[row]["drain_s"] is not None
        assert results[row]["cpu_s_per_million"] > 0
    assert results["retry"]["at_many"]["points"] > results["retry"]["at_10k"]["points"] == 10_000
    [session] = outcome["sessions"]
    verdict = session["verdict"]
    assert verdict["nothing_lost"]
    assert verdict["checked_points"] > 500
    assert verdict["acknowledged_points"] <= verdict["stored_points"] <= verdict["sent_points"]
    assert session["bytes_per_point"] > 0
    assert outcome["machine"]["cores"] > 0
    assert len(outcome["limits"]) == 1
    assert "log-batch of 1,000" in (tmp_path / "latest.md").read_text()
    measured = [target["measured"] for target in outcome["targets"] if target["met"] is not None]
    assert len(measured) > 5
    assert "### Targets" in (tmp_path / "latest.md").read_text()
    for plot in ("throughput", "latency", "cpu", "memory"):
        assert (tmp_path / f"{plot}.svg").stat().st_size > 0
        assert (tmp_path / f"{plot}.png").stat().st_size > 0
