"""Stock MLflow, used as it comes: nobody's durability, worker counts or caches are tuned."""

from __future__ import annotations

import sys

from benchmarks.systems.base import Server
from benchmarks.systems.stores import OnPostgres, OnSqlite


def _mlflow_command(server: Server, store: str) -> list[str]:
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", server.host, "--port", str(server.port)),
        *("--backend-store-uri", store, "--artifacts-destination", str(server.folder / "artifacts")),
    ]


# Background jobs are off because they only take memory and time from the work measured.
_MLFLOW_ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class MlflowSqlite(OnSqlite):
    """``mlflow server`` with its default number of workers, on SQLite."""

    name, title = "mlflow-sqlite", "MLflow, SQLite"
    durable = "on disk: rollback journal, synced at each commit"

    def start(self) -> None:
        self._spawn(_mlflow_command(self, f"sqlite:///{self.database}"), _MLFLOW_ENVIRONMENT)
        self._await("/health")


class MlflowPostgres(OnPostgres):
    """``mlflow server`` with its default number of workers, on PostgreSQL."""

    name, title = "mlflow-postgres", "MLflow, PostgreSQL"
    durable = "on disk: synchronous_commit and fsync on"

    def start(self) -> None:
        self._cluster.start()
        self._spawn(_mlflow_command(self, self._cluster.uri()), _MLFLOW_ENVIRONMENT)
        self._await("/health")
