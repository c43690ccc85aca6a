"""A disk that fills up again and again beneath inserts and merges: no point is lost, and every part can be read.

Beneath the engine with its guard alone, where most is written; and beneath a whole server under load.

``RUNSTREAM_TEST_FILLINGS`` says how often (a few by default). At length, beside a process that takes a core:

    RUNSTREAM_TEST_FILLINGS=100 python -m pytest -s tests/failure/test_fillings.py
"""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import requests

from support.full_disk import MIB, Disk, small_disk
from support.ledger import KEYS, Load
from support.mlflow_client import Rest
from support.runstream_server import RunstreamServer

FILLINGS = int(os.environ.get("RUNSTREAM_TEST_FILLINGS", "3"))
ENGINE = Path(__file__).parents[1] / "support" / "filled_engine.py"
ROOT = Path(__file__).parents[2]
HISTORY = "/api/2.0/mlflow/metrics/get-history"

ServerFactory = Callable[..., RunstreamServer]
NewRuns = Callable[[str, int], list[str]]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + 30 * FILLINGS)]


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process with pipes, killed at the end of the block."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ask(engine: subprocess.Popen[str]) -> dict[str, int]:
    """What the engine reads; it answers when it can read everything, and the test's time-out is the bound."""
    assert engine.stdin is not None
    assert engine.stdout is not None
    engine.stdin.write("look\n")
    engine.stdin.flush()
    answer: dict[str, int] = json.loads(engine.stdout.readline())
    return answer


def test_every_part_survives_a_full_disk(tmp_path: Path) -> None:
    chance = random.Random(22)
    longest_s = 0.0
    with small_disk(tmp_path / "disk", 200 * MIB) as disk, running("-c", "while True: pass"):
        with running(str(ENGINE), str(disk.folder / "clickhouse")) as engine:
            before = ask(engine)
            for _ in range(FILLINGS):
                took_s, before = fill(disk, engine, chance, before)
                longest_s = max(longest_s, took_s)
            last = ask(engine)
    print(f"{FILLINGS} fillings: {last}; at most {longest_s:.1f} s until everything could be read again")
    assert last["found"] >= last["inserted"]


def fill(
    disk: Disk, engine: subprocess.Popen[str], chance: random.Random, before: dict[str, int]
) -> tuple[float, dict[str, int]]:
    """Fill the disk for a moment; how long until everything could be read again, and what was read."""
    # At any moment of inserts and merges.
    time.sleep(chance.uniform(0.2, 1.0))
    disk.fill([psutil.Process(engine.pid)])
    time.sleep(chance.uniform(0.2, 1.0))
    disk.free([psutil.Process(engine.pid)])
    started = time.monotonic()
    after = ask(engine)
    took_s = time.monotonic() - started
    assert after["found"] >= after["inserted"] >= before["inserted"]
    # And it goes on by itself.
    while after["inserted"] == before["inserted"]:
        after = ask(engine)
    return took_s, after


class Uploads:
    """A thread that uploads artifacts of 2 MiB without a pause, over and over the same forty; ``statuses`` counts its
    answers."""

    def __init__(self, server: RunstreamServer) -> None:
        self.statuses: Counter[int] = Counter()
        self._url = f"{server.url}/api/2.0/mlflow-artifacts/artifacts/0/many/artifacts"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Uploads:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(120)
        assert not self._thread.is_alive(), "an upload hangs"

    def _run(self) -> None:
        body = random.Random(1).randbytes(2 * MIB)
        with requests.Session() as session:
            for number in itertools.count():
                if self._stop.wait(0.05):
                    return
                answer = session.put(f"{self._url}/{number % 40}", data=body, timeout=120)
                assert answer.status_code != 429 or "Retry-After" in answer.headers
                self.statuses[answer.status_code] += 1


@pytest.mark.slow_suite
def test_a_server_under_load_survives_a_full_disk(
    make_server: ServerFactory, new_runs: NewRuns, tmp_path: Path
) -> None:
    """Points are logged by four writers, artifacts uploaded and a core taken by another process all the while."""
    chance = random.Random(9)
    with small_disk(tmp_path / "disk", 400 * MIB) as disk, running("-c", "while True: pass"):
        # What the full disk does not take is not held for long, so that it is tried again at once.
        with make_server(disk.folder / "data", environment={"RUNSTREAM_HOLD_S": "0.5"}) as server:
            longest_s = 0.0
            runs = new_runs(server.url, 4)
            with Uploads(server) as uploads, Load(server.url, runs, seed=9, pause_s=0.1) as load:
                for number in range(FILLINGS):
                    load.await_progress(500, within_s=120)
                    time.sleep(chance.uniform(0, 1))
                    disk.fill(server.processes().values())
                    time.sleep(chance.uniform(0.2, 1.5))
                    disk.free(server.processes().values())
                    longest_s = max(longest_s, readable_again(server.url, runs))
                    print(
                        f"filling {number + 1}: {load.count()} points; {dict(uploads.statuses)}", flush=True
                    )
            assert set(uploads.statuses) <= {200, 429}
            assert not load.errors
            assert lost(server, load) == []
            assert server.stop() == 0
            # And what lies on the disk is whole.
            server.start()
            assert lost(server, load) == []
            set_aside = [
                path.name for path in (disk.folder / "data" / "clickhouse").rglob("broken-on-start*")
            ]
            assert set_aside == []
            print(
                f"{FILLINGS} fillings: {load.count()} points, {len(load.refusals)} requests refused, artifacts"
                f" {dict(uploads.statuses)}; at most {longest_s:.1f} s until everything could be read again"
            )
            assert server.stop() == 0


def readable_again(url: str, runs: list[str]) -> float:
    """Wait until every history of these runs is read, within a bound; how long that took, in seconds."""
    started = time.monotonic()
    for run in runs:
        for key in KEYS:
            query = {"run_id": run, "metric_key": key}
            while True:
                answer = requests.get(f"{url}{HISTORY}", params=query, timeout=120)
                if answer.status_code == 200:
                    break
                assert answer.status_code in (429, 503), answer.text
                assert time.monotonic() - started < 120, answer.text
                time.sleep(0.1)
    return time.monotonic() - started


def lost(server: RunstreamServer, load: Load) -> list[str]:
    """What of the acknowledged points is not there exactly once."""
    try:
        with Rest(server.url) as rest:
            return [fault for ledger in load.ledgers for fault in ledger.faults(rest)]
    except BaseException:
        # Its log is on the small disk, and goes with it.
        print(server.text()[-10_000:])
        raise
