"""Starting trainings that spool, and comparing what a server holds with their ledgers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.mlflow_client import Rest

_TESTS = Path(__file__).parents[1]
WITHIN_S = 240.0


class Training:
    """A training in a process of its own (``support.spool_training``). ``uri`` is what it takes for the server,
    ``python`` an interpreter with an MLflow of its own."""

    def __init__(
        self,
        what: str,
        folder: Path,
        uri: str,
        name: str = "training",
        python: Path | str = sys.executable,
        **environment: str,
    ) -> None:
        self.ledger = folder / f"{name}.ledger"
        self.log = folder / f"{name}.log"
        self.spool = folder / "spool"
        known = {
            key: value for key, value in os.environ.items() if not key.startswith(("RUNSTREAM_", "MLFLOW_"))
        }
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [str(python), _TESTS / "support" / "spool_training.py", what, str(self.ledger)],
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={
                    **known,
                    "MLFLOW_TRACKING_URI": uri,
                    "RUNSTREAM_SPOOL": str(self.spool),
                    "MLFLOW_DISABLE_TELEMETRY": "true",
                    "GIT_PYTHON_REFRESH": "quiet",
                    **environment,
                },
            )

    def wait(self, status: int = 0, within_s: float = WITHIN_S) -> None:
        """Until it ends by itself, with this status."""
        try:
            found = self.process.wait(within_s)
        finally:
            self.kill()
        assert found == status, self.text()[-3000:]

    def kill(self) -> None:
        """``kill -9``."""
        self.process.kill()
        self.process.wait()

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def lines(self) -> list[Any]:
        """What the ledger says so far, a torn last line aside."""
        if not self.ledger.exists():
            return []
        whole = self.ledger.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    @property
    def run_id(self) -> str:
        return next(line for line in self.lines() if isinstance(line, str))

    def points(self) -> Counter[tuple[str, str, int, str]]:
        """Acknowledged points: run, key, step, value."""
        return Counter(tuple(line) for line in self.lines() if isinstance(line, list))

    def await_points(self, count: int) -> None:
        await_that(lambda: sum(self.points().values()) >= count or self.process.poll() is not None)
        assert self.process.poll() is None, self.text()[-3000:]


def await_that(condition: Callable[[], bool]) -> None:
    """Poll, with a deadline."""
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.02)


@contextmanager
def training(*arguments: Any, **named: Any) -> Iterator[Training]:
    """A training that is over at the end of the block, one way or the other."""
    made = Training(*arguments, **named)
    try:
        yield made
    finally:
        made.kill()


def sync_process(spool: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    """``runstream sync`` at work."""
    known = {key: value for key, value in os.environ.items() if not key.startswith(("RUNSTREAM_", "MLFLOW_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "runstream", "sync", str(spool), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**known, **environment},
    )


def end(process: subprocess.Popen[str]) -> None:
    """``kill -9``; once more is no error."""
    process.kill()
    if process.stdout is not None and not process.stdout.closed:
        process.communicate()


def sync(spool: Path, *options: str, status: int = 0, **environment: str) -> str:
    """``runstream sync`` from its start to its end; what it prints."""
    process = sync_process(spool, *options, **environment)
    try:
        output, _ = process.communicate(timeout=WITHIN_S)
    finally:
        process.kill()
    assert process.returncode == status, output
    return output


def server_run(rest: Rest, run_id: str) -> dict[str, Any]:
    """A run by the id that the client gave it, whatever id the server has."""
    found = rest.post(
        "api/2.0/mlflow/runs/search",
        {"experiment_ids": _experiments(rest), "filter": f"tags.`runstream.run_id` = '{run_id}'"},
    ).get("runs", [])
    if found:
        run: dict[str, Any] = found[0]
        assert len(found) == 1, "one run has been created twice"
        return run
    return dict(rest.get("api/2.0/mlflow/runs/get", run_id=run_id)["run"])


def _experiments(rest: Rest) -> list[str]:
    found = rest.post("api/2.0/mlflow/experiments/search", {"max_results": 1000})["experiments"]
    return [experiment["experiment_id"] for experiment in found]


def stored(rest: Rest, wanted: Counter[tuple[str, str, int, str]]) -> Counter[tuple[str, str, int, str]]:
    """What the server holds of the series that the ledger names, in the ledger's words."""
    found: Counter[tuple[str, str, int, str]] = Counter()
    ids: dict[str, str] = {}
    for run_id, key in {(run_id, key) for run_id, key, *_ in wanted}:
        if run_id not in ids:
            ids[run_id] = server_run(rest, run_id)["info"]["run_id"]
        for point in rest.history(ids[run_id], key):
            value = float(point["value"])
            # MLflow shows infinities as the largest doubles.
            value = float("inf") if value > 1.7e308 else value
            found[run_id, key, int(point["step"]), repr(value)] += 1
    return found


def check(rest: Rest, *trainings: Training, unacknowledged: int = 0) -> None:
    """Every acknowledged point is there exactly once, and no more than so many others (a killed process may have
    spooled one whose call had not returned)."""
    wanted: Counter[tuple[str, str, int, str]] = Counter()
    for one in trainings:
        wanted += one.points()
    assert wanted
    found = stored(rest, wanted)
    lost = wanted - found
    assert lost == Counter(), f"lost {lost.most_common(20)} of {len(wanted)}"
    extra = found - wanted
    assert sum(extra.values()) <= unacknowledged, extra
    assert set(found.values()) == {1}, "doubled"
