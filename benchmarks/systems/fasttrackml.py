"""FastTrackML, used as it comes: nobody's durability, worker counts or caches are tuned."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from benchmarks.systems.base import Server
from benchmarks.systems.stores import OnPostgres, OnSqlite


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


class FastTrackMLSqlite(OnSqlite):
    """FastTrackML on SQLite."""

    name, title = "fasttrackml-sqlite", "FastTrackML, SQLite"
    durable = "in the kernel: write-ahead log, not synced at commit"

    @classmethod
    def missing(cls) -> str | None:
        return None if _FastTrackML.install() else "FastTrackML (pip install --no-deps fasttrackml)"

    def start(self) -> None:
        self._spawn(_fml_command(self, f"sqlite://{self.database}"))
        self._await("/api/2.0/mlflow/experiments/get?experiment_id=0")


class FastTrackMLPostgres(OnPostgres):
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
