"""``python -m benchmarks artifacts``: big artifacts through Runstream's gateway and through stock MLflow.

For each server and store it uploads and downloads one large artifact, then several at once, and prints throughput,
CPU seconds per GB, how far the server's memory rose and what it wrote to temporary files, with the memory over time
as a curve. Results: a table, ``benchmarks/results``, and a plot with ``--plot`` if matplotlib is there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from benchmarks.harness import results
from benchmarks.harness.measure import calibrate
from benchmarks.systems.base import free_port

_ROOT = Path(__file__).resolve().parents[2]
_PATH = "/api/2.0/mlflow-artifacts/artifacts/0/bench/artifacts/"
_SAMPLE_S = 0.1
_START_S = 120.0
_SPARKS = " ▁▂▃▄▅▆▇█"


@dataclass
class Row:
    """One phase on one server. Memory is that of the process that moves the bytes: the gateway, MLflow's worker."""

    server: str
    store: str
    phase: str
    gigabytes: float
    seconds: float
    cpu_s_per_gb: float
    idle_mb: float
    peak_mb: float
    temporary_mb: float
    fine: bool
    curve_mb: list[float] = field(default_factory=list)

    @property
    def mb_per_s(self) -> float:
        return self.gigabytes * 1000 / self.seconds

    @property
    def growth_mb(self) -> float:
        return self.peak_mb - self.idle_mb


class Watch:
    """Samples the memory and the CPU time of a server's processes, and the size of its temporary folder."""

    def __init__(self, root: int, is_mover: Callable[[str], bool], temporary: Path) -> None:
        self._temporary = temporary
        self._processes = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
        self._movers = [p for p in self._processes if is_mover(" ".join(p.cmdline()))]
        self._stop = threading.Event()
        self.curve: list[float] = []
        self.temporary_mb = 0.0

    def idle_mb(self) -> float:
        """The movers' memory now."""
        return sum(p.memory_info().rss for p in self._movers) / 1e6

    def cpu_s(self) -> float:
        """CPU time of all processes until now."""
        return sum(t.user + t.system for t in (p.cpu_times() for p in self._processes))

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            self.curve.append(self.idle_mb())
            with suppress(OSError):
                files = [f for f in self._temporary.rglob("*") if f.is_file()]
                self.temporary_mb = max(self.temporary_mb, sum(f.stat().st_blocks * 512 for f in files) / 1e6)


@dataclass(frozen=True)
class Running:
    """A started server. ``shares`` is the command line's mark of the processes that move artifacts."""

    url: str
    pid: int
    is_mover: Callable[[str], bool]


@contextmanager
def runstream(folder: Path, environment: dict[str, str], destination: str) -> Iterator[Running]:
    """``runstream serve`` with one gateway process."""
    command = [
        sys.executable,
        "-m",
        "runstream",
        "serve",
        "--port=0",
        f"--data-dir={folder / 'data'}",
        "--workers=1",
    ]
    extra = {"RUNSTREAM_ARTIFACTS": destination, "RUNSTREAM_ARTIFACTS_DIRECT": "false"}
    with _process(command, folder, {**environment, **extra}) as process:
        log = folder / "server.log"

        def ready() -> str | None:
            found = re.search(r"runstream ready at (http://\S+)", log.read_text(errors="replace"))
            return found[1] if found else None

        yield Running(_await(process, ready, log), process.pid, lambda line: "runstream gateway" in line)


@contextmanager
def stock(folder: Path, environment: dict[str, str], destination: str) -> Iterator[Running]:
    """``mlflow server --serve-artifacts`` with one worker."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"),
        *("--serve-artifacts", f"--artifacts-destination={destination.removeprefix('file://')}"),
        f"--backend-store-uri=sqlite:///{folder / 'mlflow.db'}",
    ]
    with _process(command, folder, environment) as process:
        url = f"http://127.0.0.1:{port}"

        def ready() -> str | None:
            with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=2):
                return url
            return None

        answered = _await(process, ready, folder / "server.log")
        time.sleep(3)  # its job runners are still starting, which would count as its CPU time
        yield Running(answered, process.pid, lambda line: "uvicorn" in line or "mlflow" in line)


@contextmanager
def _process(
    command: list[str], folder: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tmp").mkdir(exist_ok=True)
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("RUNSTREAM_", "MLFLOW_", "AWS_"))}
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={
                **kept,
                "TMPDIR": str(folder / "tmp"),
                "PYTHONPATH": str(_ROOT),
                "PYTHONUNBUFFERED": "1",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                "MLFLOW_DISABLE_TELEMETRY": "true",
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def _await(process: subprocess.Popen[bytes], ready: Callable[[], str | None], log: Path) -> str:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        if url := ready():
            return url
        time.sleep(0.2)
    raise SystemExit(f"benchmarks: a server did not start\n{log.read_text(errors='replace')[-3000:]}")


@contextmanager
def _store(kind: str, folder: Path) -> Iterator[tuple[Callable[[str], str], dict[str, str]]]:
    """A maker of destinations, one per server, and the environment that reaches them."""
    if kind == "file":
        yield (lambda name: f"file://{folder / name}"), {}
        return
    sys.path.append(str(_ROOT / "tests"))
    from support.s3 import S3Server

    with S3Server(folder / "weed") as server:
        environment = server.access.environment()
        yield (lambda name: f"s3://{server.access.bucket}/{name}"), environment


def _phase(
    name: str, store: str, server: Running, temporary: Path, direction: str, size: int, count: int, part: str
) -> Row:
    parts = urlsplit(server.url)
    watch = Watch(server.pid, server.is_mover, temporary)
    idle, cpu = watch.idle_mb(), watch.cpu_s()
    with watch:
        finished = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.suites.artifact_load", direction, str(parts.hostname)),
                *(str(parts.port), f"{_PATH}{part}-", str(size), str(count)),
            ],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    outcome: dict[str, Any] = json.loads(finished.stdout or '{"seconds": 1, "statuses": [0]}')
    gigabytes = size * count / 1e9
    several = (
        f"{count} {direction}loads of {size / 1e9:g} GB"
        if count > 1
        else f"{direction}load of {size / 1e9:g} GB"
    )
    row = Row(
        server=name,
        store=store,
        phase=several,
        gigabytes=gigabytes,
        seconds=outcome["seconds"],
        cpu_s_per_gb=(watch.cpu_s() - cpu) / gigabytes,
        idle_mb=idle,
        peak_mb=max([idle, *watch.curve]),
        temporary_mb=watch.temporary_mb,
        fine=set(outcome["statuses"]) == {200},
        curve_mb=watch.curve,
    )
    print(_line(row), flush=True)
    if not row.fine:
        print(f"  statuses {sorted(set(outcome['statuses']))} {finished.stderr[-500:]}", flush=True)
    return row


def _measure(
    name: str, kind: str, server: Running, folder: Path, sizes: tuple[int, int], at_once: int
) -> list[Row]:
    large, several = sizes
    temporary = folder / "tmp"
    rows = []
    for size, count, part in ((large, 1, "one"), (several, at_once, "many")):
        for direction in ("up", "down"):
            if count:
                rows.append(_phase(name, kind, server, temporary, direction, size, count, part))
                time.sleep(1)
    return rows


def _line(row: Row) -> str:
    return (
        f"{row.server:<10} {row.store:<5} {row.phase:<26} {row.mb_per_s:>7.0f} MB/s {row.cpu_s_per_gb:>6.2f} CPU s/GB "
        f"{row.idle_mb:>6.0f} MB +{row.growth_mb:<6.0f} temp {row.temporary_mb:>6.0f} MB "
        f"{'' if row.fine else 'FAILED '}|{_spark(row.curve_mb, row.idle_mb)}|"
    )


def _spark(curve: list[float], idle: float, width: int = 40) -> str:
    """Memory above idle over time; the scale is the phase's own peak, or 128 MB if that is more."""
    if not curve:
        return ""
    step = max(1, len(curve) // width)
    tops = [max(curve[at : at + step]) - idle for at in range(0, len(curve), step)]
    scale = max(128.0, *tops)
    return "".join(_SPARKS[max(0, min(8, round(8 * top / scale)))] for top in tops)


def _plot(rows: list[Row], path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    stores, phases = (
        list(dict.fromkeys(names)) for names in zip(*((r.store, r.phase) for r in rows), strict=True)
    )
    figure = Figure(figsize=(4 * len(phases), 3 * len(stores)), layout="constrained")
    places = figure.subplots(len(stores), len(phases), squeeze=False)
    for row in rows:
        axes = places[stores.index(row.store)][phases.index(row.phase)]
        seconds = [at * _SAMPLE_S for at in range(len(row.curve_mb))]
        axes.plot(seconds, [mb - row.idle_mb for mb in row.curve_mb], label=row.server)
        axes.set(title=f"{row.phase} ({row.store})", xlabel="seconds", ylabel="MB of memory above idle")
        axes.legend()
    figure.savefig(path, dpi=100)


def main(argv: list[str] | None = None) -> int:
    """Run what the arguments say; 1 if a transfer failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks artifacts", description=__doc__)
    parser.add_argument("--gb", type=float, default=5.0, help="size of the single artifact")
    parser.add_argument("--at-once", type=int, default=16, help="how many artifacts at once; 0 for none")
    parser.add_argument("--at-once-gb", type=float, default=0.5, help="size of each of these")
    parser.add_argument("--stores", default="file,s3", help="comma-separated, of file, s3 (SeaweedFS)")
    parser.add_argument("--servers", default="runstream,mlflow", help="comma-separated, of runstream, mlflow")
    results.add_option(parser)
    parser.add_argument("--plot", type=Path, help="also draw what was sent and received into this file")
    parser.add_argument("--work-dir", type=Path, help="folder for the servers' data; temporary if not given")
    arguments = parser.parse_args(argv)
    starters = {"runstream": runstream, "mlflow": stock}
    sizes = (int(arguments.gb * 1e9), int(arguments.at_once_gb * 1e9))
    rows: list[Row] = []
    with ExitStack() as stack:
        work = arguments.work_dir or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="artifacts-"))
        )
        for kind in arguments.stores.split(","):
            for name in arguments.servers.split(","):
                folder = work / f"{kind}-{name}"
                with _store(kind, folder / "store") as (destination, environment):
                    with starters[name](folder, environment, destination(name)) as server:
                        rows += _measure(name, kind, server, folder, sizes, arguments.at_once)
                shutil.rmtree(folder, ignore_errors=True)
    results.keep(
        "artifacts", {"pace": asdict(calibrate()), "rows": [asdict(row) for row in rows]}, arguments.out
    )
    if arguments.plot:
        _plot(rows, arguments.plot)
    return 0 if all(row.fine for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
