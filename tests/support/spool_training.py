"""A training for the tests of the spool, in a process of its own: ``python -m support.spool_training WHAT LEDGER …``.

The ledger is a file beside: a line for each point whose logging call has returned, written with one system call, so
that it holds after ``kill -9`` just what was acknowledged.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable

import mlflow


class Ledger:
    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(self, run_id: str, key: str, step: int, value: float) -> None:
        os.write(self._fd, (json.dumps([run_id, key, step, repr(value)]) + "\n").encode())

    def say(self, word: str) -> None:
        os.write(self._fd, (json.dumps(word) + "\n").encode())


def value_of(step: int) -> float:
    return math.nan if step % 97 == 5 else math.inf if step % 97 == 6 else step / 7


def log(ledger: Ledger, run_id: str, key: str, steps: range, pause_s: float = 0.0) -> None:
    for step in steps:
        value = value_of(step)
        mlflow.log_metric(key, value, step=step)
        ledger.note(run_id, key, step, value)
        if pause_s:
            time.sleep(pause_s)


def whole(ledger: Ledger) -> None:
    """A whole training, with everything that can be spooled."""
    mlflow.set_experiment("spooled trainings")
    with mlflow.start_run(run_name="outer", tags={"kind": "test"}) as outer:
        ledger.say(outer.info.run_id)
        mlflow.log_params({"lr": 0.1, "depth": 3, "note": "ü"})
        mlflow.log_text("hello", "texts/hello.txt")
        log(ledger, outer.info.run_id, "loss", range(300))
        mlflow.log_metrics({"a": 1.0, "b/c": -0.0}, step=2**40)
        ledger.note(outer.info.run_id, "a", 2**40, 1.0)
        with mlflow.start_run(nested=True, run_name="inner") as inner:
            log(ledger, inner.info.run_id, "loss", range(50))
        mlflow.set_tag("kind", "changed")


def endless(ledger: Ledger) -> None:
    """Log until the end comes from outside."""
    with mlflow.start_run() as run:
        ledger.say(run.info.run_id)
        log(ledger, run.info.run_id, "loss", range(1_000_000), 0.0005)


def some(ledger: Ledger) -> None:
    """Log some points, slowly, to the run that the environment names; RANK tells keys apart."""
    with mlflow.start_run() as run:
        ledger.say(run.info.run_id)
        mlflow.log_param("lr", 0.1)
        log(ledger, run.info.run_id, f"loss/{os.environ.get('RANK', '0')}", range(200), 0.002)


def forks(ledger: Ledger) -> None:
    """Fork in mid-logging: children that log, and children that do not, as data loaders are."""
    with mlflow.start_run() as run:
        ledger.say(run.info.run_id)
        log(ledger, run.info.run_id, "parent", range(100))
        children = []
        for number in range(4):
            if not (pid := os.fork()):
                import threading

                if number % 2:
                    assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
                else:
                    # MLflow's own active run is the parent's alone.
                    client = mlflow.MlflowClient()
                    for step in range(100):
                        client.log_metric(run.info.run_id, f"child{number}", value_of(step), step=step)
                        ledger.note(run.info.run_id, f"child{number}", step, value_of(step))
                os._exit(0)
            children.append(pid)
            log(ledger, run.info.run_id, "parent", range(100 + 50 * number, 150 + 50 * number))
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0


def fails(ledger: Ledger) -> None:
    """An exception that nobody catches, with a run that nobody ends."""
    run = mlflow.start_run()
    ledger.say(run.info.run_id)
    log(ledger, run.info.run_id, "loss", range(10))
    raise ValueError("as the test wants it")


def handles(ledger: Ledger) -> None:
    """A training with a handler of its own for SIGTERM, which saves and leaves in good order."""

    def leave(*_: object) -> None:
        ledger.say("handled")
        sys.exit(3)

    signal.signal(signal.SIGTERM, leave)
    endless(ledger)


def sklearn(ledger: Ledger) -> None:
    """scikit-learn's autologging, which knows nothing of a spool."""
    from sklearn.linear_model import LogisticRegression

    mlflow.sklearn.autolog(log_models=False)
    with mlflow.start_run() as run:
        ledger.say(run.info.run_id)
        LogisticRegression(C=0.5).fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])


WHATS: dict[str, Callable[[Ledger], None]] = {
    one.__name__: one for one in (whole, endless, some, forks, fails, handles, sklearn)
}

if __name__ == "__main__":
    WHATS[sys.argv[1]](Ledger(sys.argv[2]))
