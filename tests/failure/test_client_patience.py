"""Whatever part of the server is killed or stopped, no call of a stock MLflow client raises.

Clients of two versions, each with its own patience (3.18 repeats what creates something only where the server cannot
have begun with it), create experiments and runs, log, read and search all the while. What is being created at the
very moment at which a part is killed may have been created, and a client has to be told: so a part is killed between
two such calls, as ``support.patient_training`` says; all others are under way.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.cluster import RunstreamCluster
from support.mlflow_versions import Trainings, installed
from support.runstream_server import RunstreamServer

VERSIONS = ("3.17.2", "3.18.0")
OUTAGE_S = float(os.environ.get("RUNSTREAM_TEST_OUTAGE_S", "60"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clients")
    return [installed(version, folder) for version in VERSIONS]


@dataclass(frozen=True)
class Failure:
    """Something that ends at an instant, and comes back by itself or by ``repair`` after ``outage_s``."""

    end: Callable[[], None]
    repair: Callable[[], None] = lambda: None
    outage_s: float = 0.0


def nobody_raises(url: str, clients: list[Path], failures: dict[str, Failure]) -> None:
    """Let every failure happen while trainings of all clients go on."""
    training = [Trainings(url, client) for client in clients]
    try:
        for each in training:
            each.ready()
        for name, failure in failures.items():
            both(training, "pause")
            failure.end()
            both(training, "go")
            time.sleep(failure.outage_s)
            failure.repair()
            begun = time.monotonic()
            both(training, "round")
            print(f"{name}: every call has succeeded {time.monotonic() - begun:.1f} s later")
        for each, version in zip(training, VERSIONS, strict=True):
            seen = each.stop()
            print(f"\n{version}: {seen.made}\nlongest, s: {seen.longest_s}")
            assert (seen.version, seen.errors) == (version, [])
    finally:
        for each in training:
            each.__exit__()


def both(training: list[Trainings], command: str) -> None:
    for each in training:
        each.tell(command)
    for each in training:
        each.done()


# --- one machine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunstreamServer]:
    with RunstreamServer(tmp_path_factory.mktemp("patience") / "data", workers=2) as server:
        yield server


def test_parts_of_one_machine_are_killed(server: RunstreamServer, clients: list[Path]) -> None:
    def killed(name: str) -> Failure:
        def kill() -> None:
            process = server.processes()[name]
            process.kill()
            process.wait(30)  # before that it can still be sent something

        return Failure(kill)

    nobody_raises(server.url, clients, {name: killed(name) for name in ("tracking", "storage", "gateway-0")})


# --- production


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunstreamCluster]:
    with RunstreamCluster(tmp_path_factory.mktemp("patience") / "set", gateways=1, writers=1) as cluster:
        yield cluster


@pytest.mark.slow_suite
def test_parts_of_production_are_killed_and_stopped(
    production: RunstreamCluster, clients: list[Path]
) -> None:
    """Each role in turn, and what they need for a minute (``RUNSTREAM_TEST_OUTAGE_S``)."""
    postgres, kafka, clickhouse = production.postgres, production.kafka, production.clickhouse
    assert postgres is not None

    def killed(name: str) -> Failure:
        return Failure(production.roles[name].kill, production.roles[name].start)

    def kill_brokers() -> None:
        for broker in kafka.brokers:
            broker.kill()

    def start_brokers() -> None:
        for broker in kafka.brokers:
            broker.start()
        kafka.wait()

    nobody_raises(
        production.url,
        clients,
        {
            **{name: killed(name) for name in production.roles},
            "Kafka": Failure(kill_brokers, start_brokers, OUTAGE_S),
            "PostgreSQL": Failure(postgres.stop, postgres.start, OUTAGE_S),
            "ClickHouse": Failure(clickhouse.kill, clickhouse.start, OUTAGE_S),
        },
    )
