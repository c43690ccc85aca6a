"""``python -m benchmarks artifact_beside``: how long ``log-batch`` takes while big artifacts are being uploaded.

One client logs batches of 1,000 points at a steady pace, first alone, then beside running uploads, in turns, on one
``runstream serve`` with one gateway process. Prints the percentiles of both and their ratio.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.harness import results
from benchmarks.harness.measure import calibrate, machine_facts
from benchmarks.suites.artifacts import _PATH, _ROOT, _store, runstream

_POINTS = 1000


class Logger:
    """Logs made-up batches to one run over one connection; remembers how long each took."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
        run = self._post("runs/create", {"experiment_id": "0"})
        self._run_id = run["run"]["info"]["run_id"]
        self._step = 0

    def log(self, seconds: float, per_second: float) -> list[float]:
        """Milliseconds that each batch took, for ``seconds``; the next is sent when it is due and the last answered."""
        times = []
        began = time.perf_counter()
        due = began
        while due < began + seconds:
            body = self._body()
            time.sleep(max(0.0, due - time.perf_counter()))
            sent = time.perf_counter()
            self._connection.request(
                "POST", "/api/2.0/mlflow/runs/log-batch", body, {"Content-Type": "application/json"}
            )
            answer = self._connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise SystemExit(f"log-batch answered {answer.status}")
            times.append((time.perf_counter() - sent) * 1000)
            due = max(due + 1 / per_second, time.perf_counter())
        return times

    def _body(self) -> bytes:
        self._step += 1
        metrics = [
            {
                "key": f"metric-{n % 20}",
                "value": n * 0.5,
                "timestamp": 1_700_000_000_000 + self._step,
                "step": n,
            }
            for n in range(_POINTS)
        ]
        return json.dumps({"run_id": self._run_id, "metrics": metrics}).encode()

    def _post(self, path: str, body: object) -> dict[str, dict[str, dict[str, str]]]:
        self._connection.request(
            "POST", f"/api/2.0/mlflow/{path}", json.dumps(body), {"Content-Type": "application/json"}
        )
        answer: dict[str, dict[str, dict[str, str]]] = json.loads(self._connection.getresponse().read())
        return answer


def uploaded_bytes(url: str) -> float:
    """What the gateway has received of artifacts, once no upload is under way: it counts those that have ended."""
    deadline = time.monotonic() + 10
    while True:
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as page:
            text = page.read().decode()
        if not _number(text, "runstream_artifact_transfers") or time.monotonic() > deadline:
            return _number(text, "runstream_artifact_bytes_total")
        time.sleep(0.1)


def _number(text: str, name: str) -> float:
    found = re.search(rf'^{name}{{direction="up"}} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def percentiles(times: list[float]) -> dict[str, float]:
    """p50, p99 and the worst, in milliseconds."""
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {"p50": round(cuts[49], 2), "p99": round(cuts[98], 2), "worst": round(max(times), 2)}


def main(argv: list[str] | None = None) -> int:
    """Run what the arguments say; 1 if p99 more than doubles."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks artifact_beside", description=__doc__)
    parser.add_argument("--uploads", type=int, default=10, help="how many at once")
    parser.add_argument("--gb", type=float, default=1.0, help="size of each")
    parser.add_argument("--store", choices=["file", "s3"], default="file")
    parser.add_argument("--per-second", type=float, default=20.0, help="batches of 1,000 points")
    parser.add_argument("--idle-s", type=float, default=20.0, help="how long to log alone, in each turn")
    parser.add_argument(
        "--beside-s",
        type=float,
        default=600.0,
        help="how long to log beside uploads at most; then they are dropped",
    )
    parser.add_argument(
        "--store-dir", type=Path, help="where the store keeps its data, if not beside the server"
    )
    parser.add_argument("--turns", type=int, default=1)
    results.add_option(parser)
    arguments = parser.parse_args(argv)
    alone: list[float] = []
    beside: list[float] = []
    moved = moved_s = 0.0
    with (
        tempfile.TemporaryDirectory(prefix="beside-") as temporary,
        tempfile.TemporaryDirectory(prefix="beside-", dir=arguments.store_dir) as place,
    ):
        folder = Path(temporary)
        with (
            _store(arguments.store, Path(place) / "store") as (destination, environment),
            runstream(folder, environment, destination("runstream")) as server,
        ):
            logger = Logger(server.url)
            logger.log(3, arguments.per_second)
            for turn in range(arguments.turns):
                alone += logger.log(arguments.idle_s, arguments.per_second)
                parts = urlsplit(server.url)
                before = uploaded_bytes(server.url)
                began = time.perf_counter()
                uploads = subprocess.Popen(
                    [
                        *(sys.executable, "-m", "benchmarks.suites.artifact_load", "up", str(parts.hostname)),
                        *(
                            str(parts.port),
                            f"{_PATH}{turn}-",
                            str(int(arguments.gb * 1e9)),
                            str(arguments.uploads),
                        ),
                    ],
                    cwd=_ROOT,
                    stdout=subprocess.PIPE,
                )
                time.sleep(0.5)
                while uploads.poll() is None and time.perf_counter() < began + arguments.beside_s:
                    beside += logger.log(1, arguments.per_second)
                moved_s += time.perf_counter() - began
                if uploads.poll() is None:
                    uploads.kill()
                    uploads.communicate()
                else:
                    outcome = json.loads(uploads.communicate()[0])
                    if set(outcome["statuses"]) != {200}:
                        raise SystemExit(f"uploads answered {outcome['statuses']}")
                moved += uploaded_bytes(server.url) - before
    ratio = percentiles(beside)["p99"] / percentiles(alone)["p99"]
    result = {
        "store": arguments.store,
        "alone_ms": percentiles(alone),
        "beside_ms": percentiles(beside),
        "p99_ratio": round(ratio, 2),
        "batches": [len(alone), len(beside)],
        "upload_mb_per_s": round(moved / moved_s / 1e6),
        "machine": {**machine_facts(), **calibrate().__dict__},
    }
    print(json.dumps(result, indent=1))
    results.keep("artifact_beside", result, arguments.out)
    return 0 if ratio <= 2 else 1


if __name__ == "__main__":
    sys.exit(main())
