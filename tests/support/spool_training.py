"""A training for the tests of the spool, in a process of its own: ``python spool_training.py WHAT LEDGER``.

It needs MLflow alone, of any version from 2.22 on, and Python 3.10.

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
from functools import partial
from typing import Any

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


def reads(ledger: Ledger) -> None:
    """The same, and reads what it has written, by every way that an MLflow of any version has."""
    whole(ledger)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("spooled trainings")
    with mlflow.start_run(experiment_id=experiment.experiment_id) as run:
        run_id = run.info.run_id
        mlflow.log_param("lr", 0.1)
        mlflow.log_param("lr", 0.1)
        log(ledger, run_id, "loss", range(20))
        assert client.get_run(run_id).data.params == {"lr": "0.1"}
        assert client.get_run(run_id).data.metrics["loss"] == value_of(19)
        assert [point.step for point in client.get_metric_history(run_id, "loss")] == list(range(20))
        mlflow.set_tag("mark", "here")
        (found,) = client.search_runs(
            [experiment.experiment_id], f"tags.mark = 'here' and run_id = '{run_id}'"
        )
        assert found.info.status == "RUNNING"
        client.delete_tag(run_id, "mark")
        assert "mark" not in client.get_run(run_id).data.tags
        mlflow.log_dict({"a": 1}, "some.json")
        assert [file.path for file in client.list_artifacts(run_id)] == ["some.json"]
    assert client.get_run(run_id).info.status == "FINISHED"


def endless(ledger: Ledger) -> None:
    """Log until the end comes from outside."""
    with mlflow.start_run() as run:
        ledger.say(run.info.run_id)
        log(ledger, run.info.run_id, "loss", range(1_000_000), 0.0005)


def some(ledger: Ledger) -> None:
    """Log some points, slowly, to the run that the environment names; KEY, or RANK, tells keys apart."""
    with mlflow.start_run() as run:
        ledger.say(run.info.run_id)
        mlflow.log_param("lr", 0.1)
        log(
            ledger,
            run.info.run_id,
            f"loss/{os.environ.get('KEY', os.environ.get('RANK', '0'))}",
            range(200),
            0.002,
        )


def slow(ledger: Ledger) -> None:
    """Some points in some seconds."""
    with mlflow.start_run() as run:
        ledger.say(run.info.run_id)
        log(ledger, run.info.run_id, "loss", range(700), 0.01)


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


def leaves(ledger: Ledger) -> None:
    """``sys.exit(1)`` with a run that nobody ends."""
    run = mlflow.start_run()
    ledger.say(run.info.run_id)
    log(ledger, run.info.run_id, "loss", range(10))
    sys.exit(1)


def leaves_within(ledger: Ledger) -> None:
    """``sys.exit(1)`` within the run."""
    with mlflow.start_run() as run:
        ledger.say(run.info.run_id)
        log(ledger, run.info.run_id, "loss", range(10))
        sys.exit(1)


def keyed(ledger: Ledger) -> None:
    """Two runs, one within the other, that a job with the same key goes on with; until the end comes from outside."""
    with mlflow.start_run(run_name="outer") as outer:
        ledger.say(outer.info.run_id)
        mlflow.log_param("lr", 0.1)
        with mlflow.start_run(run_name="inner", nested=True) as inner:
            ledger.say(inner.info.run_id)
            log(ledger, inner.info.run_id, os.environ["KEY"], range(1_000_000), 0.001)


def _worker(number: int, run_id: str, ledger: str, items: Any) -> None:
    """A worker of a data loader: it makes items; every other one logs as well."""
    import threading

    made = Ledger(ledger)
    client = mlflow.MlflowClient()
    for item in iter(items.get, None):
        if number % 2:
            client.log_metric(run_id, f"worker{number}", value_of(item), step=item)
            made.note(run_id, f"worker{number}", item, value_of(item))
    if number % 2 == 0:
        names = {thread.name for thread in threading.enumerate()}
        assert "runstream-sender" not in names, names


def workers(ledger: Ledger) -> None:
    """Workers as PyTorch's DataLoader has them, begun in mid-logging, by each of Python's ways."""
    import multiprocessing

    with mlflow.start_run() as run:
        run_id = run.info.run_id
        ledger.say(run_id)
        for turn, way in enumerate(("fork", "spawn", "forkserver")):
            context: Any = multiprocessing.get_context(way)
            queues: list[Any] = [context.SimpleQueue() for _ in range(2)]
            many: list[Any] = [
                context.Process(
                    target=_worker, args=(number, run_id, f"{sys.argv[2]}.{way}{number}", queue), daemon=True
                )
                for number, queue in enumerate(queues)
            ]
            log(ledger, run_id, "loss", range(100 * turn, 100 * turn + 50))
            for process in many:
                process.start()
            for item in range(100 * turn, 100 * turn + 100):
                for queue in queues:
                    queue.put(item)
            log(ledger, run_id, "loss", range(100 * turn + 50, 100 * turn + 100))
            for process, queue in zip(many, queues, strict=True):
                queue.put(None)
                process.join()
                assert process.exitcode == 0, (way, process.exitcode)


def hostile(ledger: Ledger) -> None:
    """What nobody should do: but for calls that MLflow itself refuses nothing is raised, and the good is kept."""
    import threading

    import numpy as np

    class Odd:
        def __float__(self) -> float:
            raise RuntimeError("no number")

    client = mlflow.MlflowClient()
    mlflow.set_experiment("odd / Ünïcode \u2603 'quotes' \"and\" more")
    run = mlflow.start_run(run_name="name / with \n everything \u2603 " + "x" * 300)
    run_id = run.info.run_id
    ledger.say(run_id)
    _try(mlflow.start_run, Exception)
    assert mlflow.active_run().info.run_id == run_id

    def put(key: str, value: Any, step: Any = 0) -> None:
        client.log_metric(run_id, key, value, step=step)
        # MLflow keeps no sign of zero.
        ledger.note(run_id, key, int(step), float(value) + 0.0)

    for key in ("a/b/c", "üé", "with space", "x" * 250, "dots.and-dashes_"):
        put(key, 1.0)
    for at, value in enumerate(
        (1, True, 0, -0.0, 1e308, 5e-324, np.float32(0.5), np.int64(7), np.array(2.5))
    ):
        put("values", value, at)
    put("steps", 1.0, -5)
    put("steps", 1.0, 2**62)
    put("steps", 1.0, np.int64(3))
    for bad in ("y" * 251, "no?", "", "../up", "/abs", "nul\0", "\u2603"):
        _try(partial(client.log_metric, run_id, bad, 1.0))
    for value in (None, "text", [], Odd(), 1j):
        _try(partial(client.log_metric, run_id, "bad values", value), Exception)
    _try(
        lambda: mlflow.log_params(
            {"good": 1, "long": "z" * 100_000, "none": None, "list": [1, 2], "n" * 300: 1}
        )
    )
    _try(lambda: mlflow.log_param("good", 1))
    _try(lambda: mlflow.log_param("good", "another value"))
    _try(lambda: mlflow.set_tags({"t/a/g": "x" * 4000, "ü": "\u2603", "too long": "x" * 100_000}))
    _try(lambda: mlflow.log_metrics({f"many/{n}": n for n in range(2500)}, step=1))
    for n in range(2500):
        ledger.note(run_id, f"many/{n}", 1, float(n))

    def work(number: int) -> None:
        for step in range(200):
            put(f"thread{number}", step / 3, step)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    mlflow.end_run()
    put("after the end", 1.0)


def _try(call: Callable[[], Any], kind: type[Exception] = mlflow.MlflowException) -> None:
    """MLflow's client may refuse a call by itself, before any store sees it, as it does without a spool."""
    try:
        call()
    except kind as error:
        print(f"MLflow refuses: {str(error)[:100]!r}")


def offline_all(ledger: Ledger) -> None:
    """Everything that a run may hold, a dataset and a model too, and what needs an answer."""
    import numpy as np
    from mlflow.exceptions import MlflowException

    whole(ledger)
    mlflow.set_experiment("all that a run may hold")
    with mlflow.start_run(run_name="all") as run:
        ledger.say(run.info.run_id)
        dataset = mlflow.data.from_numpy(np.arange(6.0), name="numbers")
        mlflow.log_input(dataset, context="training")
        mlflow.log_dict({"a": 1}, "folder/a.json")

        class Model(mlflow.pyfunc.PythonModel):
            def predict(self, context: Any, model_input: list[float], params: Any = None) -> list[float]:
                return [2 * value for value in model_input]

        named = (
            {"name": "twice"}
            if "name" in mlflow.pyfunc.log_model.__code__.co_varnames
            else {"artifact_path": "twice"}
        )
        mlflow.pyfunc.log_model(**named, python_model=Model(), pip_requirements=["mlflow"])
        log(ledger, run.info.run_id, "loss", range(10))
    client = mlflow.MlflowClient()
    asked: dict[str, Callable[[], Any]] = {
        "search": lambda: client.search_runs(["0"]),
        "registry": lambda: client.get_registered_model("m"),
        "register": lambda: mlflow.register_model(f"runs:/{run.info.run_id}/twice", "m"),
    }
    if os.environ.get("RUNSTREAM_OFFLINE"):
        for name, ask in asked.items():
            try:
                ask()
            except MlflowException as error:
                print(f"SAID {name}: {error}")
            else:
                raise AssertionError(f"{name} cannot have an answer")


def monitored(ledger: Ledger) -> None:
    """MLflow's system metrics beside the training's own."""
    mlflow.enable_system_metrics_logging()
    mlflow.set_system_metrics_sampling_interval(0.2)
    with mlflow.start_run() as run:
        ledger.say(run.info.run_id)
        log(ledger, run.info.run_id, "loss", range(300), 0.01)


def sklearn(ledger: Ledger) -> None:
    """scikit-learn's autologging, which knows nothing of a spool."""
    from sklearn.linear_model import LogisticRegression

    mlflow.sklearn.autolog(log_models=False)
    with mlflow.start_run() as run:
        ledger.say(run.info.run_id)
        LogisticRegression(C=0.5).fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])


WHATS: dict[str, Callable[[Ledger], None]] = {
    one.__name__: one
    for one in (
        whole,
        reads,
        endless,
        some,
        slow,
        forks,
        fails,
        handles,
        leaves,
        leaves_within,
        keyed,
        workers,
        hostile,
        offline_all,
        monitored,
        sklearn,
    )
}

if __name__ == "__main__":
    WHATS[sys.argv[1]](Ledger(sys.argv[2]))
