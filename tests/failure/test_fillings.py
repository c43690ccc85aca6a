"""A disk that fills up again and again beneath inserts and merges: no point is lost, and every part can be read.

``RUNSTREAM_TEST_FILLINGS`` says how often (a few by default). At length, beside a process that takes a core:

    RUNSTREAM_TEST_FILLINGS=100 python -m pytest -s tests/failure/test_fillings.py
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from support.full_disk import MIB, Disk, small_disk

FILLINGS = int(os.environ.get("RUNSTREAM_TEST_FILLINGS", "3"))
ENGINE = Path(__file__).parents[1] / "support" / "filled_engine.py"
ROOT = Path(__file__).parents[2]

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
