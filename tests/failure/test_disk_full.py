"""A full disk, and a log that nobody consumes.

Writes are refused politely, nothing acknowledged is lost, and it goes on by itself when there is room again.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import requests

from support.full_disk import MIB, small_disk
from support.ledger import Load
from support.mlflow_client import Rest
from support.runstream_server import RunstreamServer

DISK_BYTES = 400 * MIB
FULL = ("No space left", "disk is full", "File too large", "disk I/O error")
WITHIN_S = 60.0

# What the full disk does not take is not held for long, so that many are refused.
SOON = {"RUNSTREAM_HOLD_S": "0.5"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ServerFactory = Callable[..., RunstreamServer]
NewRuns = Callable[[str, int], list[str]]


def await_refusals(load: Load, count: int = 5) -> None:
    """Wait for 429s, with ``Retry-After``."""
    before = len(load.refusals)
    deadline = time.monotonic() + WITHIN_S
    while len(load.refusals) < before + count:
        assert time.monotonic() < deadline, "nothing is refused"
        time.sleep(0.02)
    assert {(r.status, bool(r.retry_after)) for r in load.refusals} == {(429, True)}, load.refusals[:3]


def check(server: RunstreamServer, load: Load) -> None:
    """Every acknowledged point is there exactly once."""
    assert load.errors == []
    try:
        with Rest(server.url) as rest:
            assert [fault for ledger in load.ledgers for fault in ledger.faults(rest)] == []
    except BaseException:
        # Its log is on the small disk, and goes with it.
        print(server.text()[-10_000:])
        raise


def test_disk_full(make_server: ServerFactory, new_runs: NewRuns, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk:
        with make_server(disk.folder / "data", environment=SOON) as server:
            for _ in range(2):
                with Load(server.url, new_runs(server.url, 3), seed=3, pause_s=0) as load:
                    load.await_progress(1000)
                    disk.fill(server.processes().values())
                    await_refusals(load)
                    processes = {name: process.pid for name, process in server.processes().items()}
                    disk.free(server.processes().values())
                    load.await_progress(1000)
                check(server, load)
                assert {name: process.pid for name, process in server.processes().items()} == processes
            assert server.stop() == 0


def test_killed_on_a_full_disk(make_server: ServerFactory, new_runs: NewRuns, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk:
        server = make_server(disk.folder / "data", environment=SOON).start()
        with Load(server.url, new_runs(server.url, 3), seed=4, pause_s=0) as load:
            load.await_progress(1000)
            disk.fill(server.processes().values())
            await_refusals(load)
            server.kill()
        disk.free()
        server.start()
        check(server, load)
        assert server.stop() == 0


def test_start_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2 * MIB) as disk:
        data = disk.folder / "data"
        with subprocess.Popen(
            [sys.executable, "-m", "runstream", "serve", "--port", "0", "--data-dir", str(data)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            disk.fill([psutil.Process(process.pid)])  # its children inherit a limit
            _, printed = process.communicate(timeout=WITHIN_S)
        disk.free()
    assert process.returncode == 1, printed
    messages = [line for line in printed.splitlines() if line.startswith("runstream: ")]
    assert any(reason in line for line in messages for reason in FULL), printed
    assert "Traceback" not in printed


def test_log_is_bounded_while_the_writer_is_away(make_server: ServerFactory, new_runs: NewRuns) -> None:
    bound = 2 * MIB
    settings = {"RUNSTREAM_QUEUE_MAX_BYTES": str(bound), "RUNSTREAM_BARRIER_TIMEOUT_S": "1"}
    with make_server(environment=settings | SOON) as server:
        log = server.data_dir / "log"
        with Load(server.url, new_runs(server.url, 3), seed=5, pause_s=0, max_points=800) as load:
            load.await_progress(1000)
            storage = server.processes()["storage"]
            storage.send_signal(signal.SIGSTOP)
            try:
                await_refusals(load)
                assert used(log) < bound * 1.25
                assert any("has not consumed" in refusal.body for refusal in load.refusals)
                assert_stale_read(server.url, load.ledgers[0].run_id)
                assert "query" in requests.get(f"{server.url}/ready", timeout=20).text
            finally:
                storage.send_signal(signal.SIGCONT)
            load.await_progress(1000)
        check(server, load)
        deadline = time.monotonic() + WITHIN_S
        while used(log) > bound / 2:
            assert time.monotonic() < deadline, f"consumed segments stay: {used(log)} bytes"
            time.sleep(0.1)
        assert server.stop() == 0


def assert_stale_read(url: str, run_id: str) -> None:
    """A read that waits for the writer in vain answers with what there is, within its bound, and says so."""
    answer = requests.get(f"{url}/api/2.0/mlflow/runs/get", params={"run_id": run_id}, timeout=20)
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Runstream-Stale"] == "true"
    assert answer.elapsed.total_seconds() < 10


def used(folder: Path) -> int:
    """Bytes on the disk of all files below."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            pass
    return total
