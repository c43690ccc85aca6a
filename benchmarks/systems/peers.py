"""Runstream's peers, used as they come: nobody's durability, worker counts or caches are tuned."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
from pathlib import Path

from benchmarks.harness.postgres import PostgresCluster, find_postgres
from benchmarks.systems.base import Server, free_port


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


def _has_pip() -> bool:
    return (
        subprocess.run(
            [sys.executable, "-m", "pip", "--version"], capture_output=True, check=False
        ).returncode
        == 0
    )
