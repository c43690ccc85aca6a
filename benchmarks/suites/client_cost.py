"""What a logging call of the client that spools costs, beside MLflow's own: ``python -m benchmarks client_cost``.

In one process: calls over a store that does nothing (MLflow's floor), over the spool, and ``runstream``'s own
``run.log``, with a server that is absent, answers 503, or never answers; and the sender's CPU for each 1,000 points.
"""

from __future__ import annotations

import argparse
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import results
from runstream.ingest.client.client import Client
from runstream.ingest.client.delivery import Delivery
from runstream.ingest.client.link import Link
from runstream.ingest.client.reader import SpoolFile, spool_files
from runstream.ingest.client.run import Run
from runstream.ingest.client.settings import SpoolSettings

_WARM = 2_000


Timings = dict[str, dict[str, float]]


def timed(name: str, call: Callable[[int], object], calls: int) -> Timings:
    """Microseconds of a call: its own CPU (mean over a loop), p50, p99 and p99.9 of single ones on the clock."""
    for at in range(_WARM):
        call(at)
    began = time.thread_time()
    for at in range(calls):
        call(at)
    cpu = (time.thread_time() - began) / calls * 1e6
    took = []
    for at in range(calls):
        began = time.perf_counter_ns()
        call(at)
        took.append(time.perf_counter_ns() - began)
    took.sort()
    p50, p99, p999 = (took[int(len(took) * part)] / 1000 for part in (0.5, 0.99, 0.999))
    print(f"{name:<46} {cpu:9.2f} {p50:9.2f} {p99:9.2f} {p999:9.2f}")
    return {name: {"cpu": cpu, "p50": p50, "p99": p99, "p999": p999}}


@contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """A server that gives everybody this answer, or none and holds the connection."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)

        def serve() -> None:
            held = []
            while not over.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                held.append(connection)
                if answer is not None:
                    connection.recv(65536)
                    connection.sendall(answer)
                    connection.close()
            for connection in held:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            over.set()
            thread.join()


def own_calls(calls: int) -> Timings:
    """Each call by itself, with nobody at the other end."""
    import mlflow
    from mlflow.entities import Metric
    from mlflow.store.tracking.rest_store import RestStore

    from runstream.ingest.client.store import SpoolingStore

    class Nothing(RestStore):  # type: ignore[misc]
        def log_metric(self, run_id: str, metric: Metric) -> None:
            """The floor."""

    client = mlflow.MlflowClient("http://127.0.0.1:9")
    inner = client._tracking_client
    run_id = "a" * 32
    found: Timings = {}
    print(f"{'':<46} {'CPU':>9} {'p50':>9} {'p99':>9} {'p99.9':>9}   µs a call")
    with tempfile.TemporaryDirectory() as folder:
        settings = SpoolSettings(Path(folder), offline=True)
        spooling = SpoolingStore(lambda: None, Client("http://127.0.0.1:9", settings))
        for name, store in (("a store that does nothing", Nothing(lambda: None)), ("the spool", spooling)):
            setattr(type(inner), "store", store)  # noqa: B010  # a property otherwise
            found |= timed(
                f"MlflowClient.log_metric, {name}",
                lambda at: client.log_metric(run_id, "loss", 0.5, 1_700_000_000_000, at),
                calls,
            )
        metric = Metric("loss", 0.5, 1_700_000_000_000, 1)
        found |= timed(
            "the spool store alone, log_metric", lambda _: spooling.log_metric(run_id, metric), calls
        )
        run = Run(Client("http://127.0.0.1:9", settings), run_id)
        ten = {f"metric{at}": 0.5 for at in range(10)}
        found |= timed("run.log, 1 key", lambda at: run.log({"loss": 0.5}, at), calls)
        found |= timed("run.log, 10 keys", lambda at: run.log(ten, at), calls)
    return found


def beside_a_sender(calls: int) -> Timings:
    """Calls while the sender's thread meets a server that is of no use."""
    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    found: Timings = {}
    for name, answer in (("answers 503", busy), ("never answers", None)):
        with answering(answer) as url:
            found |= _beside(url, f"the server {name}", calls)
    return found | _beside("http://127.0.0.1:9", "nobody there", calls)


def _beside(url: str, name: str, calls: int) -> Timings:
    import mlflow

    from runstream.ingest.client.store import SpoolingStore

    with tempfile.TemporaryDirectory() as folder:
        ours = Client(url, SpoolSettings(Path(folder), flush_timeout_s=0.1))
        run = Run(ours, "a" * 32)
        found = timed(f"run.log, 1 key, {name}", lambda at: run.log({"loss": 0.5}, at), calls)
        client = mlflow.MlflowClient(url)
        setattr(type(client._tracking_client), "store", SpoolingStore(lambda: None, ours))  # noqa: B010  # a property
        found |= timed(
            f"MlflowClient.log_metric, {name}",
            lambda at: client.log_metric("b" * 32, "loss", 0.5, 1_700_000_000_000, at),
            calls,
        )
        ours.sender.stop()
        return found


class _Taking(Link):
    """A server that takes frames and does nothing."""

    def offers(self, timeout_s: float = 5.0) -> dict[str, Any]:
        return {"frames": 1}

    def request(self, method: str, path: str, data: Any, **_: Any) -> dict[str, Any]:
        return {}


class _Unmarked(SpoolFile):
    """A file whose marks are kept in memory, so that it can be read again."""

    def mark(self, offset: int) -> None:
        self.cursor = offset


def sender_cpu(points: int) -> dict[str, float]:
    """CPU of delivery for each 1,000 points, into a server that takes frames and does nothing."""
    found: dict[str, float] = {}
    for keys in (1, 10):
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Client("http://127.0.0.1:9", SpoolSettings(Path(folder), offline=True)), "a" * 32)
            values = {f"metric{at}": at / 7 for at in range(keys)}
            for step in range(points // keys):
                run.log(values, step)
            for trusted in (True, False):
                total = sum(_delivered(path, trusted=trusted) for path in spool_files(Path(folder)))
                whose = "its own files" if trusted else "others' files, checked"
                name = f"the sender, {keys} keys a call, {whose}"
                found[name] = total / points * 1e6
                print(f"{name}: {found[name]:.3f} ms CPU for 1,000 points")
    return found


def _delivered(path: Path, *, trusted: bool) -> float:
    file = _Unmarked.open(path)
    assert file is not None
    file.trusted = trusted
    delivery = Delivery(_Taking("http://127.0.0.1:9"), lambda *_: None)
    began = time.process_time()
    while delivery.step(file):
        pass
    return time.process_time() - began


def main() -> None:
    """Print every figure, and keep them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000)
    results.add_option(parser)
    arguments = parser.parse_args()
    os.environ.pop("RUNSTREAM_SPOOL", None)
    calls = own_calls(arguments.calls) | beside_a_sender(arguments.calls)
    results.keep(
        "client_cost", {"us_a_call": calls, "ms_cpu_for_1000_points": sender_cpu(200_000)}, arguments.out
    )


if __name__ == "__main__":
    main()
