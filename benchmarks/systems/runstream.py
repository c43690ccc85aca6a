"""Runstream itself: everything embedded, and its roles apart on Kafka and ClickHouse's HTTP interface."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import clickhouse_connect
import psutil

from benchmarks.systems.base import Server, free_port

if TYPE_CHECKING:
    from support.chdb_http import ChdbServer
    from support.kafka import KafkaCluster

_ROOT = Path(__file__).resolve().parents[2]
# What starts a real broker and an engine behind HTTP is the tests' own.
_SUPPORT = _ROOT / "tests"
# Ten minutes at full load leave hundreds of millions of points to merge and count.
_COUNT_TIMEOUT_S = 3600


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
        return self._stopped["points"]

    def stored_bytes(self) -> int:
        return self._stopped["bytes"]

    @cached_property
    def _stopped(self) -> dict[str, int]:
        """What the stopped engine holds, asked through chDB in a process of its own."""
        script = [
            sys.executable,
            "-m",
            "benchmarks.systems.inspect_chdb",
            str(self.folder / "data" / "clickhouse"),
        ]
        answer = subprocess.run(
            script, cwd=_ROOT, stdout=subprocess.PIPE, check=True, timeout=_COUNT_TIMEOUT_S
        )
        facts: dict[str, int] = json.loads(answer.stdout.splitlines()[-1])
        return facts


class RunstreamKafka(Server):
    """The roles apart, one of each, with one Kafka broker and the engine behind HTTP, all on this machine."""

    name, title = "runstream-kafka", "Runstream, Kafka"
    durable = "acknowledged by Kafka: acks=all, one replica, not synced by the broker"
    peer = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._roles: list[subprocess.Popen[bytes]] = []
        self._kafka: KafkaCluster | None = None
        self._engine: ChdbServer | None = None

    @classmethod
    def missing(cls) -> str | None:
        _use_support()
        try:
            from support.kafka import why_no_kafka
        except ImportError as error:
            return f"the tests' requirements ({error})"
        return why_no_kafka()

    def start(self) -> None:
        _use_support()
        from support.chdb_http import ChdbServer
        from support.kafka import KafkaCluster

        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "run").mkdir()
        self._kafka = KafkaCluster(self.folder / "kafka").start()
        self._engine = ChdbServer(self.folder / "clickhouse")
        self._engine.start()
        tracking, query, writer = free_port(), free_port(), free_port()
        environment = {
            "RUNSTREAM_QUEUE": f"kafka://{','.join(self._kafka.servers)}",
            "RUNSTREAM_KAFKA_REPLICATION": "1",
            "RUNSTREAM_KAFKA_MIN_INSYNC": "1",
            "RUNSTREAM_CLICKHOUSE": self._engine.url,
            "RUNSTREAM_METADATA": f"sqlite:///{self.folder / 'mlflow.db'}",
            "RUNSTREAM_ARTIFACTS": f"file://{self.folder / 'artifacts'}",
            "RUNSTREAM_TRACKING": f"http://{self.host}:{tracking}",
            "RUNSTREAM_QUERY": f"http://{self.host}:{query}",
            "RUNSTREAM_GATEWAY": f"http://{self.host}:{self.port}",
            "RUNSTREAM_INTERNAL_TOKEN": secrets.token_urlsafe(16),
            "RUNSTREAM_RUN_DIR": str(self.folder / "run"),
            "PROMETHEUS_MULTIPROC_DIR": str(self.folder / "run"),
        }
        command = [sys.executable, "-m", "runstream"]
        self._spawn([*command, "migrate"], environment)
        assert self.process is not None
        if self.process.wait(120) != 0:
            raise RuntimeError(f"runstream migrate failed:\n{self.log_tail()}")
        for role, port in (
            ("tracking", tracking),
            ("query", query),
            ("writer", writer),
            ("gateway", self.port),
        ):
            self._spawn([*command, role, "--port", str(port)], environment)
            self._roles.append(self.process)
        self._await("/ready")

    def roots(self) -> list[int]:
        brokers = [b.process for b in self._kafka.brokers] if self._kafka else []
        engine = [c.pid for c in psutil.Process().children() if "chdb_http" in " ".join(c.cmdline())]
        return [process.pid for process in (*self._roles, *brokers) if process is not None] + engine

    def role(self, command_line: str) -> str:
        if "kafka.Kafka" in command_line:
            return "kafka"
        if "chdb_http" in command_line:
            return "clickhouse"
        for role in ("gateway", "writer", "query", "tracking"):
            if f"runstream {role}" in command_line:
                return role
        return "tracking"

    def stop_serving(self) -> None:
        # The last one spawned is the gateway: what clients talk to goes first.
        for process in reversed(self._roles):
            self.process = process
            super().stop_serving()
        self._roles = []

    def stop(self) -> None:
        super().stop()
        if self._engine:
            self._engine.stop()
        if self._kafka:
            self._kafka.stop()

    def stored_points(self) -> int:
        return self._ask("select count() from metrics final")

    def stored_bytes(self) -> int:
        return self._ask("select sum(bytes_on_disk) from system.parts where active and table = 'metrics'")

    def _ask(self, sql: str) -> int:
        assert self._engine is not None
        client = clickhouse_connect.get_client(dsn=self._engine.url)
        client.command("optimize table metrics final")
        return int(client.query(sql).result_rows[0][0])


def _use_support() -> None:
    if str(_SUPPORT) not in sys.path:
        sys.path.insert(0, str(_SUPPORT))
