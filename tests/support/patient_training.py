"""Trainings of a stock MLflow client, in a process of their own: ``python patient_training.py URL``.

Each kind of call is made again and again by a thread of its own, with the client's own patience. Commands come on
standard input, one a line, each answered with a line:

- ``pause``: begin no calls that create something, and answer when none is under way. What is being created while its
  server is killed may have been created: MLflow's client (3.18) then raises, and has to.
- ``go``: create again.
- ``round``: answer when every kind of call has succeeded once more from its beginning, or has raised.
- ``stop``: answer with what was seen, as JSON, and end.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

CREATING = ("create_run", "create_experiment", "log_inputs")
PAUSE_S = 0.05


class Trainings:
    """The calls, and what came of them."""

    def __init__(self, url: str) -> None:
        self.client = client = MlflowClient(url)
        self.experiment = client.create_experiment(f"patience-{uuid.uuid4().hex}")
        self.run = run = client.create_run(self.experiment).info.run_id
        client.log_metric(run, "m", 0.0, step=0)
        self.calls: dict[str, Callable[[int], object]] = {
            "create_run": lambda _: client.create_run(self.experiment),
            "create_experiment": lambda _: client.create_experiment(f"patience-{uuid.uuid4().hex}"),
            "log_inputs": lambda _: client.log_inputs(run, []),
            "log_metric": lambda i: client.log_metric(run, "m", float(i), step=i),
            "log_batch": lambda i: client.log_batch(
                run, [Metric("b", float(i), 1, i)], [Param(f"b{i}", "v")], [RunTag("t", str(i))]
            ),
            "log_param": lambda i: client.log_param(run, f"p{i}", i),
            "set_tag": lambda i: client.set_tag(run, "tag", i),
            "get_run": lambda _: client.get_run(run),
            "search_runs": lambda _: client.search_runs([self.experiment], max_results=10),
            "get_metric_history": lambda _: client.get_metric_history(run, "m"),
            "list_artifacts": lambda _: client.list_artifacts(run),
            "log_text": lambda i: client.log_text(run, "text", f"{i % 3}.txt"),
        }
        self.errors: list[str] = []
        self.longest_s = dict.fromkeys(self.calls, 0.0)
        self.made = dict.fromkeys(self.calls, 0)
        self._begun_of_last = dict.fromkeys(self.calls, 0.0)
        self._creating = 0
        self._paused = self._stopping = False
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._again, args=(name,)) for name in self.calls]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def _again(self, name: str) -> None:
        number = 0
        while self._begin(name):
            number += 1
            begun = time.monotonic()
            error = None
            try:
                self.calls[name](number)
            except Exception:
                error = f"{name} after {time.monotonic() - begun:.1f} s: {traceback.format_exc()[-600:]}"
            with self._changed:
                self.made[name] += 1
                self.longest_s[name] = max(self.longest_s[name], time.monotonic() - begun)
                self._begun_of_last[name] = begun
                if error is not None:
                    self.errors.append(error)
                self._creating -= name in CREATING
                self._changed.notify_all()
            time.sleep(PAUSE_S)

    def _begin(self, name: str) -> bool:
        with self._changed:
            if name in CREATING:
                self._changed.wait_for(lambda: not self._paused or self._stopping)
                self._creating += not self._stopping
            return not self._stopping

    def obey(self, command: str) -> str:
        with self._changed:
            if command == "pause":
                self._paused = True
                self._changed.wait_for(lambda: not self._creating)
            elif command == "go":
                self._paused = False
            elif command == "round":
                now = time.monotonic()
                self._changed.wait_for(lambda: min(self._begun_of_last.values()) > now or self.errors)
            elif command == "stop":
                self._stopping = True
            self._changed.notify_all()
        if command != "stop":
            return "done"
        for thread in self._threads:
            thread.join()
        return json.dumps(
            {
                "version": mlflow.__version__,
                "made": self.made,
                "longest_s": {name: round(seconds, 1) for name, seconds in self.longest_s.items()},
                "errors": self.errors,
            }
        )


if __name__ == "__main__":
    trainings = Trainings(sys.argv[1])
    trainings.start()
    print("ready", flush=True)
    for line in sys.stdin:
        print(trainings.obey(line.strip()), flush=True)
        if line.strip() == "stop":
            break
