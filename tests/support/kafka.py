"""Real Apache Kafka brokers (KRaft) for the tests: one, or a cluster, from Kafka's own Java artifacts.

Maven resolves ``org.apache.kafka:kafka_2.13`` once into a cache outside the repository
(``RUNSTREAM_TEST_CACHE``, by default ``~/.cache/runstream-tests``). Brokers listen on free ports of 127.0.0.1, keep
their data in a folder of the test, and are stopped at the end. With ``RUNSTREAM_TEST_KAFKA=host:port,…`` the tests
that need no broker of their own use that cluster instead.
"""

from __future__ import annotations

import base64
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pytest

KAFKA_VERSION = os.environ.get("RUNSTREAM_TEST_KAFKA_VERSION", "4.1.1")
_START_TIMEOUT_S = 90
_STOP_TIMEOUT_S = 30
_HEAP_MB = 256
_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>runstream</groupId><artifactId>kafka-for-tests</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.24.3</version>
    </dependency>
  </dependencies>
</project>
"""
_LOG4J = """\
Configuration:
  Appenders:
    Console:
      name: out
      PatternLayout:
        pattern: "%d{HH:mm:ss.SSS} %-5p %c{1}: %m%n"
  Loggers:
    Root:
      level: WARN
      AppenderRef:
        ref: out
"""


def why_no_kafka() -> str | None:
    """Why brokers cannot be started here, or ``None``."""
    if shutil.which("java") is None:
        return "no Java: install openjdk-17-jre-headless"
    banner = subprocess.run(["java", "-version"], capture_output=True, text=True).stderr
    version = re.search(r'version "(\d+)', banner)
    if version is None or int(version[1]) < 17:
        return f"Kafka {KAFKA_VERSION} needs Java 17: {banner.splitlines()[:1]}"
    if not _complete().exists() and shutil.which("mvn") is None:
        return "no Maven to fetch Kafka's artifacts with: install maven"
    return None


def require_kafka() -> None:
    """Skip the test, saying why, if brokers cannot be started here; in CI a skip is a failure."""
    reason = why_no_kafka()
    if reason is not None:
        pytest.skip(f"no Kafka for the tests: {reason}")


def _cache() -> Path:
    root = os.environ.get("RUNSTREAM_TEST_CACHE") or Path.home() / ".cache" / "runstream-tests"
    return Path(root) / f"kafka-{KAFKA_VERSION}"


def _complete() -> Path:
    return _cache() / "complete"


def jars() -> Path:
    """The folder with Kafka's jars, fetched on first use. Safe for several test processes at once."""
    cache = _cache()
    if _complete().exists():
        return cache / "lib"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _complete().exists():
            (cache / "pom.xml").write_text(_POM.format(version=KAFKA_VERSION))
            command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"]
            done = subprocess.run(
                [*command, f"-DoutputDirectory={cache / 'lib'}"], cwd=cache, capture_output=True, text=True
            )
            if done.returncode != 0:
                raise RuntimeError(f"Maven could not fetch Kafka:\n{(done.stdout + done.stderr)[-3000:]}")
            _complete().touch()
    return cache / "lib"


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def _java(*arguments: str) -> list[str]:
    quick = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")
    return ["java", f"-Xmx{_HEAP_MB}m", *quick, "-cp", f"{jars()}/*", *arguments]


@dataclass
class Broker:
    """One process: broker and controller in one."""

    node: int
    directory: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What the process printed."""
        return self.directory / "broker.log"

    def format(self, cluster_id: str, *options: str) -> None:
        """Prepare the folder, as ``kafka-storage.sh format`` does."""
        config = str(self.directory / "server.properties")
        # Joined with "=": an id may begin with "-" and would be read as an option.
        command = _java(
            "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "-c", config, *options
        )
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start the process; ``KafkaCluster.wait`` waits until it answers."""
        assert self.process is None
        (self.directory / "log4j2.yaml").write_text(_LOG4J)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                _java(
                    f"-Dlog4j2.configurationFile={self.directory / 'log4j2.yaml'}",
                    *("kafka.Kafka", str(self.directory / "server.properties")),
                ),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """An orderly end, and a hard one if that takes too long."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: the broker hangs, its connections stay."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _end(self, number: int) -> None:
        if self.process is None:
            return
        self.process.send_signal(number)
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


@dataclass
class KafkaCluster:
    """Brokers that form one cluster. ``extra`` are further lines of ``server.properties``."""

    directory: Path
    size: int = 1
    extra: dict[str, str] = field(default_factory=dict)
    protocol: str = "PLAINTEXT"
    format_options: tuple[str, ...] = ()
    brokers: list[Broker] = field(default_factory=list)

    @property
    def servers(self) -> list[str]:
        """``host:port`` of every broker."""
        return [f"127.0.0.1:{broker.port}" for broker in self.brokers]

    def start(self) -> KafkaCluster:
        """Format and start all brokers, and wait until they answer."""
        require_kafka()
        ports = free_ports(2 * self.size)
        voters = ",".join(f"{n + 1}@127.0.0.1:{ports[2 * n + 1]}" for n in range(self.size))
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        for n in range(self.size):
            broker = Broker(n + 1, self.directory / f"broker-{n + 1}", ports[2 * n])
            broker.directory.mkdir(parents=True)
            lines = self._properties(broker, ports[2 * n + 1], voters) | self.extra
            text = "".join(f"{key}={value}\n" for key, value in lines.items())
            (broker.directory / "server.properties").write_text(text)
            broker.format(cluster_id, *self.format_options)
            self.brokers.append(broker)
        for broker in self.brokers:
            broker.start()
        self.wait()
        return self

    def _properties(self, broker: Broker, controller_port: int, voters: str) -> dict[str, str]:
        replicas = str(min(3, self.size))
        return {
            "process.roles": "broker,controller",
            "node.id": str(broker.node),
            "controller.quorum.voters": voters,
            "controller.listener.names": "CONTROLLER",
            "listeners": f"CLIENT://127.0.0.1:{broker.port},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": f"CLIENT://127.0.0.1:{broker.port}",
            "inter.broker.listener.name": "CLIENT",
            "listener.security.protocol.map": f"CLIENT:{self.protocol},CONTROLLER:PLAINTEXT",
            "log.dirs": str(broker.directory / "data"),
            "offsets.topic.replication.factor": replicas,
            "offsets.topic.num.partitions": "3",
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "num.network.threads": "2",
            "num.io.threads": "4",
            "num.replica.fetchers": "1",
            "log.cleaner.dedupe.buffer.size": "8388608",
            # Quicker than by default to find that a broker is gone: tests kill them.
            "broker.session.timeout.ms": "4000",
            "broker.heartbeat.interval.ms": "1000",
            # Kafka's own default, made plain: nobody may rely on it, and the tests would notice.
            "auto.create.topics.enable": "true",
        }

    def wait(self) -> None:
        """Wait until every running broker takes connections."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        for broker in self.brokers:
            while broker.process is not None:
                if broker.process.poll() is not None:
                    raise AssertionError(f"broker {broker.node} ended:\n{broker.log.read_text()[-3000:]}")
                try:
                    socket.create_connection(("127.0.0.1", broker.port), timeout=1).close()
                except OSError:
                    assert time.monotonic() < deadline, broker.log.read_text()[-3000:]
                    time.sleep(0.1)
                else:
                    break

    def segments(self, topic: str, partition: int) -> list[Path]:
        """The log files of a partition, on every broker that has it."""
        return sorted(self.directory.glob(f"broker-*/data/{topic}-{partition}/*.log"))

    def stop(self) -> None:
        """End all brokers. Nothing of them is needed afterwards, so without ceremony."""
        for broker in self.brokers:
            broker.kill()

    def __enter__(self) -> KafkaCluster:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()


_SHARED = pytest.StashKey[KafkaCluster]()


def shared_servers(config: pytest.Config) -> tuple[str, ...]:
    """One broker for all tests of this process that only need some Kafka, each with topics of its own; or the
    cluster that ``RUNSTREAM_TEST_KAFKA`` names. Started on first use, stopped when pytest ends."""
    named = os.environ.get("RUNSTREAM_TEST_KAFKA")
    return tuple(named.split(",")) if named else tuple(shared_cluster(config).servers)


def shared_cluster(config: pytest.Config) -> KafkaCluster:
    """The broker behind ``shared_servers``, for tests that look into its files."""
    if _SHARED not in config.stash:
        directory = Path(tempfile.mkdtemp(prefix="runstream-kafka-"))
        cluster = KafkaCluster(directory)
        config.stash[_SHARED] = cluster
        config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
        config.add_cleanup(cluster.stop)
        cluster.start()
    return config.stash[_SHARED]
