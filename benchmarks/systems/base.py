"""What every contender has in common: it starts processes on a free port, in a folder of its own, and stops them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from abc import ABC, abstractmethod
from pathlib import Path

import psutil

_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 30.0
_FOREIGN_PREFIXES = ("RUNSTREAM_", "MLFLOW_", "_MLFLOW_", "FML_", "PYTEST_")


class Server(ABC):
    """One contender. ``start`` and ``stop`` block; a server is started once.

    ``host`` and ``port`` are where it answers, valid after ``start``. ``durable`` says what a 200 means.
    """

    name: str
    title: str
    durable: str
    peer = True
    host = "127.0.0.1"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def missing(cls) -> str | None:
        """What has to be installed first, or ``None`` if it can start."""
        return None

    @abstractmethod
    def start(self) -> None:
        """Start, and wait until it answers."""

    @abstractmethod
    def stored_points(self) -> int:
        """How many distinct points its database holds, asked of itself, after ``stop_serving``."""

    @abstractmethod
    def stored_bytes(self) -> int:
        """Bytes that the metrics take at rest (the database with its indexes), after ``stop_serving``."""

    def roots(self) -> list[int]:
        """Process ids whose trees do the server's work."""
        return [self.process.pid] if self.process else []

    def role(self, command_line: str) -> str:
        """Which part of the server a process is."""
        return "server"

    def stop_serving(self) -> None:
        """Stop what answers; the database stays readable."""
        process, self.process = self.process, None
        if process is None:
            return
        family = [*_children(process.pid), psutil.Process(process.pid)]
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)
        for member in family:
            with contextlib.suppress(psutil.Error):
                member.kill()
        process.wait(10)

    def stop(self) -> None:
        """Stop everything. Safe to call twice."""
        self.stop_serving()

    def log_tail(self) -> str:
        log = self.folder / "server.log"
        return log.read_text(errors="replace")[-3000:] if log.exists() else ""

    def _spawn(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN_PREFIXES)}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={
                    **kept,
                    "MLFLOW_DISABLE_TELEMETRY": "true",
                    "DO_NOT_TRACK": "true",
                    **(environment or {}),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _await(self, path: str) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(f"http://{self.host}:{self.port}{path}", timeout=5) as answer:
                    if answer.status == 200:
                        return
            if self.process is None or self.process.poll() is not None:
                break
            time.sleep(0.1)
        tail = self.log_tail()
        self.stop()
        raise RuntimeError(f"{self.name} did not start:\n{tail}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []
