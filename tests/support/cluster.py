"""Runstream as in production: each role its own process, on real Kafka, a ClickHouse end over HTTP and PostgreSQL.

A part that a variable names is used instead of one started here: ``RUNSTREAM_TEST_KAFKA`` (host:port,…),
``RUNSTREAM_TEST_CLICKHOUSE`` and ``RUNSTREAM_TEST_POSTGRES`` (URLs), ``RUNSTREAM_TEST_S3`` (``s3://bucket/prefix``,
with the credentials in the environment). That is what ``make test-services`` does.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from support.chdb_http import ChdbServer
from support.kafka import KafkaCluster
from support.postgres import Postgres

_PARTS = ("KAFKA", "CLICKHOUSE", "POSTGRES", "S3")
_READY_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 60.0


class Role:
    """One role's process; may be killed, stopped, paused and started again on its port."""

    def __init__(self, name: str, port: int, log: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.port = port
        self.log = log
        self._environment = environment
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it; does not wait."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "runstream", self.name.split("-")[0], "--port", str(self.port)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
                # Its own group: a tracking server may have children.
                start_new_session=True,
            )

    def answers(self, path: str = "/health") -> bool:
        """Whether a GET is 200 now."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait(self, path: str = "/health", timeout_s: float = _READY_TIMEOUT_S) -> None:
        """Wait until it answers 200."""
        deadline = time.monotonic() + timeout_s
        while not self.answers(path):
            ended = self.process is not None and self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise AssertionError(
                    f"{self.name} is not ready:\n{self.log.read_text(errors='replace')[-4000:]}"
                )
            time.sleep(0.05)

    def signal(self, number: int) -> None:
        """Send a signal to the process and its children."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_STOP_TIMEOUT_S)


class RunstreamCluster:
    """All parts and all roles. Gateways have ports of their own: a load balancer is the test's."""

    def __init__(
        self,
        directory: Path,
        *,
        gateways: int = 2,
        writers: int = 2,
        brokers: int = 1,
        partitions: int = 4,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.kafka = KafkaCluster(directory / "kafka", size=brokers)
        self.clickhouse = ChdbServer(directory / "clickhouse")
        self.postgres: Postgres | None = None
        self._named = {part: os.environ.get(f"RUNSTREAM_TEST_{part}") for part in _PARTS}
        self._partitions = partitions
        self._brokers = brokers
        self._extra = environment or {}
        self._names = [
            "tracking",
            "query",
            *(f"writer-{number}" for number in range(writers)),
            *(f"gateway-{number}" for number in range(gateways)),
        ]
        self.roles: dict[str, Role] = {}

    @property
    def gateways(self) -> list[Role]:
        """The gateways."""
        return [role for name, role in self.roles.items() if name.startswith("gateway")]

    @property
    def writers(self) -> list[Role]:
        """The writers."""
        return [role for name, role in self.roles.items() if name.startswith("writer")]

    @property
    def url(self) -> str:
        """The first gateway."""
        return self.gateways[0].url

    def start(self) -> RunstreamCluster:
        """Start the parts, migrate, start the roles, wait until every gateway is ready."""
        named = self._named
        if not named["KAFKA"]:
            self.kafka.start()
        if not named["CLICKHOUSE"]:
            self.clickhouse.start()
        metadata = named["POSTGRES"]
        if not metadata:
            self.postgres = Postgres.create()
            self.postgres.start()
            metadata = self.postgres.create_database("mlflow")
        ports = dict(zip(self._names, _free_ports(len(self._names)), strict=True))
        environment = self.environment(ports, metadata)
        done = subprocess.run(
            [sys.executable, "-m", "runstream", "migrate"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=_READY_TIMEOUT_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        for name in self._names:
            self.roles[name] = Role(name, ports[name], self.directory / f"{name}.log", environment)
            self.roles[name].start()
        for name in ("tracking", "query"):
            self.roles[name].wait()
        for role in (*self.writers, *self.gateways):
            role.wait("/ready")
        return self

    def environment(self, ports: dict[str, int], metadata: str) -> dict[str, str]:
        """The settings that all roles share."""
        return {
            "RUNSTREAM_INTERNAL_TOKEN": "secret-of-the-tests",
            "RUNSTREAM_QUEUE": f"kafka://{self._named['KAFKA'] or ','.join(self.kafka.servers)}",
            "RUNSTREAM_KAFKA_PARTITIONS": str(self._partitions),
            "RUNSTREAM_KAFKA_REPLICATION": str(min(3, self._brokers)),
            "RUNSTREAM_KAFKA_MIN_INSYNC": str(min(2, self._brokers)),
            "RUNSTREAM_KAFKA_SESSION_TIMEOUT_MS": "6000",
            "RUNSTREAM_CLICKHOUSE": self._named["CLICKHOUSE"] or self.clickhouse.url,
            "RUNSTREAM_METADATA": metadata,
            "RUNSTREAM_ARTIFACTS": self._named["S3"] or f"file://{self.directory / 'artifacts'}",
            "RUNSTREAM_TRACKING": f"http://127.0.0.1:{ports['tracking']}",
            "RUNSTREAM_QUERY": f"http://127.0.0.1:{ports['query']}",
            "RUNSTREAM_GATEWAY": f"http://127.0.0.1:{ports['gateway-0']}",
            "PYTHONUNBUFFERED": "1",
            **self._extra,
        }

    def gateway(self, chance: random.Random) -> Role:
        """Any gateway, as a load balancer would choose."""
        return chance.choice(self.gateways)

    def restart(self, name: str) -> None:
        """Start a role again after its end and wait for it."""
        self.roles[name].start()
        self.roles[name].wait("/ready" if name.startswith(("gateway", "writer")) else "/health")

    def stop(self) -> None:
        """End everything, without ceremony."""
        for role in self.roles.values():
            role.kill()
        self.clickhouse.kill()
        if self.postgres is not None:
            self.postgres.remove()
        self.kafka.stop()

    def __enter__(self) -> RunstreamCluster:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: Any) -> None:
        self.stop()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
