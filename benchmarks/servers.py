"""The contenders: each starts its processes on a free port below its own folder, and stops them all.

All are used as they come: nobody's durability, worker counts or caches are tuned. ``durable`` says what a 200
means.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import sysconfig
import time
import urllib.request
from abc import ABC, abstractmethod
from pathlib import Path

import psutil

from benchmarks.postgres import PostgresCluster, find_postgres

_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 30.0
_FOREIGN_PREFIXES = ("RUNSTREAM_", "MLFLOW_", "_MLFLOW_", "FML_", "PYTEST_")


class Server(ABC):
    """One contender. ``start`` and ``stop`` block; a server is started once.

    ``host`` and ``port`` are where it answers, valid after ``start``.
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


class _OnSqlite(Server):
    """Keeps its metrics in one SQLite file."""

    @property
    def database(self) -> Path:
        return self.folder / "metrics.db"

    def stored_points(self) -> int:
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            return int(connection.execute("select count(*) from metrics").fetchone()[0])

    def stored_bytes(self) -> int:
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            connection.execute("pragma wal_checkpoint(truncate)")
        return self.database.stat().st_size


class _OnPostgres(Server):
    """Keeps its metrics in a PostgreSQL cluster of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._cluster = PostgresCluster(folder / "postgres", free_port())

    @classmethod
    def missing(cls) -> str | None:
        return super().missing() or (None if find_postgres() else "PostgreSQL (apt-get install postgresql)")

    def roots(self) -> list[int]:
        own = super().roots()
        return own + ([self._cluster.process.pid] if self._cluster.process else [])

    def role(self, command_line: str) -> str:
        return "database" if "postgres" in command_line.split(" ", 1)[0] else "server"

    def stored_points(self) -> int:
        return self._cluster.ask("select count(*) from metrics")

    def stored_bytes(self) -> int:
        return self._cluster.ask("select pg_total_relation_size('metrics')")

    def stop(self) -> None:
        super().stop()
        self._cluster.stop()


def _mlflow_command(server: Server, store: str) -> list[str]:
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", server.host, "--port", str(server.port)),
        *("--backend-store-uri", store, "--artifacts-destination", str(server.folder / "artifacts")),
    ]


# Background jobs are off because they only take memory and time from the work measured.
_MLFLOW_ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class MlflowSqlite(_OnSqlite):
    """``mlflow server`` with its default number of workers, on SQLite."""

    name, title = "mlflow-sqlite", "MLflow, SQLite"
    durable = "on disk: rollback journal, synced at each commit"

    def start(self) -> None:
        self._spawn(_mlflow_command(self, f"sqlite:///{self.database}"), _MLFLOW_ENVIRONMENT)
        self._await("/health")


class MlflowPostgres(_OnPostgres):
    """``mlflow server`` with its default number of workers, on PostgreSQL."""

    name, title = "mlflow-postgres", "MLflow, PostgreSQL"
    durable = "on disk: synchronous_commit and fsync on"

    def start(self) -> None:
        self._cluster.start()
        self._spawn(_mlflow_command(self, self._cluster.uri()), _MLFLOW_ENVIRONMENT)
        self._await("/health")


class _FastTrackML:
    """The ``fml`` program: one static binary in a wheel, installed without what the wheel asks for."""

    @staticmethod
    def program() -> Path:
        # Beside our environment's packages and not among them: the wheel asks for another MLflow.
        return Path(sysconfig.get_path("purelib")).parent / "fasttrackml-peer"

    @classmethod
    def install(cls) -> str | None:
        found = shutil.which("fml")
        if found:
            return found
        target = cls.program()
        binary = target / "fml"
        if not binary.exists():
            beside = str(Path(sys.executable).parent / "uv")
            uv = shutil.which("uv") or shutil.which(beside) or "uv"
            command = [sys.executable, "-m", "pip"] if _has_pip() else [uv, "pip"]
            extra = [] if _has_pip() else ["--python", sys.executable]
            scripts = ["install", "--quiet", "--no-deps", "--target", str(target), *extra, "fasttrackml"]
            subprocess.run([*command, *scripts], check=False)
            for candidate in target.glob("**/bin/fml"):
                binary.symlink_to(candidate)
        return str(binary) if binary.exists() else None


class FastTrackMLSqlite(_OnSqlite):
    """FastTrackML on SQLite."""

    name, title = "fasttrackml-sqlite", "FastTrackML, SQLite"
    durable = "in the kernel: write-ahead log, not synced at commit"

    @classmethod
    def missing(cls) -> str | None:
        return None if _FastTrackML.install() else "FastTrackML (pip install --no-deps fasttrackml)"

    def start(self) -> None:
        self._spawn(_fml_command(self, f"sqlite://{self.database}"))
        self._await("/api/2.0/mlflow/experiments/get?experiment_id=0")


class FastTrackMLPostgres(_OnPostgres):
    """FastTrackML on PostgreSQL."""

    name, title = "fasttrackml-postgres", "FastTrackML, PostgreSQL"
    durable = "on disk: synchronous_commit and fsync on"

    @classmethod
    def missing(cls) -> str | None:
        return super().missing() or FastTrackMLSqlite.missing()

    def start(self) -> None:
        self._cluster.start()
        self._spawn(_fml_command(self, self._cluster.uri("postgres")))
        self._await("/api/2.0/mlflow/experiments/get?experiment_id=0")


def _fml_command(server: Server, store: str) -> list[str]:
    return [
        *(str(_FastTrackML.install()), "server", "--listen-address", f"{server.host}:{server.port}"),
        *("--database-uri", store, "--default-artifact-root", str(server.folder / "artifacts")),
        # Its access log would cost it a line per request.
        *("--log-level", "warn"),
    ]


class Runstream(Server):
    """``runstream serve``, everything embedded: local log, chDB, SQLite for MLflow's own tables."""

    name, title = "runstream", "Runstream, embedded"
    durable = "on disk: log synced by group commit"
    peer = False

    def start(self) -> None:
        self._spawn(
            [
                *(sys.executable, "-m", "runstream", "serve", "--host", self.host, "--port", str(self.port)),
                *("--data-dir", str(self.folder / "data")),
            ],
            {"PYTHONUNBUFFERED": "1"},
        )
        self._await("/ready")

    def role(self, command_line: str) -> str:
        for role in ("gateway", "storage", "tracking"):
            if f"runstream {role}" in command_line:
                return role
        return "tracking" if "mlflow" in command_line else "supervisor"

    def stored_points(self) -> int:
        return self._inspect()["points"]

    def stored_bytes(self) -> int:
        return self._inspect()["bytes"]

    def _inspect(self) -> dict[str, int]:
        """What the stopped engine holds, asked through chDB in a process of its own."""
        script = [sys.executable, "-m", "benchmarks.inspect_chdb", str(self.folder / "data" / "clickhouse")]
        root = Path(__file__).resolve().parent.parent
        answer = subprocess.run(script, cwd=root, stdout=subprocess.PIPE, check=True, timeout=300)
        facts: dict[str, int] = json.loads(answer.stdout.splitlines()[-1])
        return facts


CONTENDERS: dict[str, type[Server]] = {
    server.name: server
    for server in (Runstream, MlflowSqlite, MlflowPostgres, FastTrackMLSqlite, FastTrackMLPostgres)
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _has_pip() -> bool:
    return (
        subprocess.run(
            [sys.executable, "-m", "pip", "--version"], capture_output=True, check=False
        ).returncode
        == 0
    )


def _children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []
