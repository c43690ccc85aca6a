"""A real, stock ``mlflow server`` beside the one under test."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import requests

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 10.0
LOG_TAIL_BYTES = 8_000

# Settings of a surrounding Runstream, MLflow client or server must not leak into the stock one.
_FOREIGN_PREFIXES = ("RUNSTREAM_", "MLFLOW_", "_MLFLOW_", "PYTEST_")


class StockServer:
    """One ``mlflow server`` process group; ``start`` blocks until it answers, ``stop`` ends all of it.

    ``url`` is its base address. Data and the log (``log_path``) live in ``folder``; the backend store is
    SQLite there, unless ``backend_store_uri`` names another database (``postgresql:``); ``flags`` are more of MLflow's
    own. Stock means: without
    the store plugin of Runstream, which is off unless ``RUNSTREAM_TRACKING_PLUGIN`` is set.
    """

    def __init__(
        self,
        folder: Path,
        *,
        backend_store_uri: str | None = None,
        workers: int = 1,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self._flags = flags
        self._more = environment or {}
        self.backend_store_uri = backend_store_uri or f"sqlite:///{folder / 'mlflow.db'}"
        self.workers = workers
        self.log_path = folder / "server.log"
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait for ``/health``; raises ``RuntimeError`` with its log if that never comes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + START_TIMEOUT_S
        for attempt in range(3):  # a port can be taken between our look and the server's bind
            port = _free_port()
            self.url = f"http://127.0.0.1:{port}"
            with self.log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command(port),
                    cwd=self.folder,
                    env=_environment() | dict(self._more),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            if self._wait_until_healthy(deadline):
                return
            self.stop()
            if b"ddress already in use" not in self._log_tail() or attempt == 2:
                break
        raise RuntimeError(f"stock MLflow did not start\n{self.log()}")

    def stop(self) -> None:
        """End the process group: SIGTERM, then SIGKILL. Safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        _signal_group(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        _signal_group(process.pid, signal.SIGKILL)  # children that outlived their parent
        process.wait(STOP_TIMEOUT_S)

    @property
    def pid(self) -> int:
        """The first process of the group."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """The end of the server's log, to show with a failure."""
        return self._log_tail().decode(errors="replace")

    def _command(self, port: int) -> list[str]:
        return [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host=127.0.0.1",
            f"--port={port}",
            f"--workers={self.workers}",
            f"--backend-store-uri={self.backend_store_uri}",
            f"--artifacts-destination={self.folder / 'artifacts'}",
            *self._flags,
        ]

    def _wait_until_healthy(self, deadline: float) -> bool:
        assert self._process is not None
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                return False
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return True
            time.sleep(0.1)
        return False

    def _log_tail(self) -> bytes:
        return self.log_path.read_bytes()[-LOG_TAIL_BYTES:] if self.log_path.exists() else b""


@contextlib.contextmanager
def stock_server(folder: Path, *, backend_store_uri: str | None = None) -> Iterator[StockServer]:
    """A started stock server, stopped at the end; its log is printed (pytest shows it) if the block fails."""
    server = StockServer(folder, backend_store_uri=backend_store_uri)
    server.start()
    try:
        yield server
    except BaseException:
        print(f"--- stock MLflow's log, {server.log_path}\n{server.log()}")
        raise
    finally:
        server.stop()


def _environment() -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN_PREFIXES)}
    return env | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
