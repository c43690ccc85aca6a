"""Every part of a production set fails under load, and no acknowledged point is lost or doubled.

Real processes: three Kafka brokers, two gateways, two writers, query, tracking, PostgreSQL, the ClickHouse engine
behind HTTP. In every round clients log unique points and keep a ledger; something fails at a random moment; afterwards
every acknowledged point must be there exactly once, newest values must be right, and the writers' lag back at zero.

By default each failure happens once and outages are short. ``RUNSTREAM_TEST_MATRIX_ROUNDS=5`` and
``RUNSTREAM_TEST_MATRIX_OUTAGE_S=60`` do it at length; the table of all rounds is printed at the end.
``RUNSTREAM_TEST_SEED`` repeats a seed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from support.chdb_http import Fault
from support.cluster import RunstreamCluster
from support.ledger import Ledger, Load
from support.mlflow_client import Rest

ROUNDS = int(os.environ.get("RUNSTREAM_TEST_MATRIX_ROUNDS", "1"))
OUTAGE_S = float(os.environ.get("RUNSTREAM_TEST_MATRIX_OUTAGE_S", "5"))
SEED = os.environ.get("RUNSTREAM_TEST_SEED") or str(random.SystemRandom().randrange(10**6))
CLIENTS_PER_GATEWAY = 2
LAG_WITHIN_S = 90.0
SESSION_S = 6.0  # as support.cluster sets it
TOO_MANY_PARTS = 252

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

NewRuns = Callable[[str, int], list[str]]


@dataclass
class Row:
    """One line of the table."""

    failure: str
    round: int
    acknowledged: int
    refused: int
    lag_zero_s: float
    faults: int


class Matrix:
    """Rounds of load and failure on one set."""

    def __init__(self, cluster: RunstreamCluster, new_runs: NewRuns) -> None:
        self.cluster = cluster
        self.chance = random.Random(SEED)
        self.rows: list[Row] = []
        self.ledgers: list[Ledger] = []
        self._new_runs = new_runs

    def round(self, name: str, number: int, failure: Failure) -> None:
        """Load, failure, recovery, check."""
        loads = []
        for gateway in self.cluster.gateways:
            runs = self._new_runs(self.cluster.url, CLIENTS_PER_GATEWAY)
            loads.append(Load(gateway.url, runs, seed=self.chance.randrange(1 << 30)))
        for load in loads:
            load.__enter__()
        try:
            for load in loads:
                load.await_progress()
            time.sleep(self.chance.uniform(0.0, 1.0))
            failure(self)
            for load in loads:
                load.await_progress(within_s=120)
        finally:
            for load in loads:
                load.stop()
        ended = time.monotonic()
        self.await_no_lag()
        lag_zero_s = time.monotonic() - ended
        ledgers = [ledger for load in loads for ledger in load.ledgers]
        faults = self.faults(ledgers)
        self.ledgers += ledgers
        self.rows.append(
            Row(
                name,
                number,
                sum(ledger.count() for ledger in ledgers),
                sum(len(load.refusals) for load in loads),
                lag_zero_s,
                len(faults),
            )
        )
        assert not [error for load in loads for error in load.errors]
        assert not faults, f"seed {SEED}:\n" + "\n".join(faults)
        impolite = [
            refusal
            for load in loads
            for refusal in load.refusals
            if refusal.status not in (0, 429, 503) or (refusal.status and not refusal.retry_after)
        ]
        assert not impolite, impolite[:3]

    def faults(self, ledgers: list[Ledger]) -> list[str]:
        """What differs between the ledgers and what readers see, through any gateway."""
        with Rest(self.cluster.gateway(self.chance).url) as rest:
            return [fault for ledger in ledgers for fault in ledger.faults(rest)]

    def await_no_lag(self) -> None:
        """Wait until the writers have committed everything that the topic holds."""
        deadline = time.monotonic() + LAG_WITHIN_S
        body = json.dumps({"run_ids": None, "timeout_ms": 5_000}).encode()
        headers = {"Content-Type": "application/json", "X-Runstream-Token": "secret-of-the-tests"}
        url = f"{self.cluster.roles['query'].url}/api/1.0/runstream/internal/barrier"
        while True:
            try:
                with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
                    if json.load(answer)["fresh"]:
                        return
            except OSError:
                pass
            assert time.monotonic() < deadline, "the lag does not go back to zero"

    def table(self) -> str:
        """All rounds."""
        head = f"{'failure':<24}{'round':>6}{'acknowledged':>14}{'refused':>9}{'lag zero s':>12}{'faults':>8}"
        return "\n".join(
            [
                head,
                *(
                    f"{row.failure:<24}{row.round:>6}{row.acknowledged:>14}{row.refused:>9}"
                    f"{row.lag_zero_s:>12.1f}{row.faults:>8}"
                    for row in self.rows
                ),
            ]
        )


Failure = Callable[[Matrix], None]


def kill_role(prefix: str) -> Failure:
    def failure(matrix: Matrix) -> None:
        names = [name for name in matrix.cluster.roles if name.startswith(prefix)]
        name = matrix.chance.choice(names)
        matrix.cluster.roles[name].kill()
        time.sleep(matrix.chance.uniform(0.0, 2.0))
        matrix.cluster.restart(name)

    return failure


def kill_broker(matrix: Matrix) -> None:
    broker = matrix.chance.choice(matrix.cluster.kafka.brokers)
    broker.kill()
    time.sleep(matrix.chance.uniform(1.0, 5.0))
    broker.start()
    matrix.cluster.kafka.wait()


def kill_clickhouse(matrix: Matrix) -> None:
    matrix.cluster.clickhouse.kill()
    time.sleep(matrix.chance.uniform(0.0, 2.0))
    matrix.cluster.clickhouse.start()


def zombie_writer(matrix: Matrix) -> None:
    """Paused past its session: another takes its partitions over, and then it wakes up with a block in hand."""
    writer = matrix.chance.choice(matrix.cluster.writers)
    writer.signal(signal.SIGSTOP)
    time.sleep(SESSION_S + 4.0)
    writer.signal(signal.SIGCONT)


def rebalance_storm(matrix: Matrix) -> None:
    for _ in range(4):
        writer = matrix.chance.choice(matrix.cluster.writers)
        if matrix.chance.random() < 0.5:
            writer.kill()
        else:
            # A process told to stop before its loop runs ends by the signal itself.
            assert writer.stop() in (0, -signal.SIGTERM)
        time.sleep(matrix.chance.uniform(0.0, 1.0))
        writer.start()
    for writer in matrix.cluster.writers:
        writer.wait("/ready")


def brokers_unreachable(matrix: Matrix) -> None:
    for broker in matrix.cluster.kafka.brokers:
        broker.pause()
    time.sleep(OUTAGE_S)
    for broker in matrix.cluster.kafka.brokers:
        broker.resume()


def clickhouse_errors(matrix: Matrix) -> None:
    matrix.cluster.clickhouse.faults(Fault("refuse", match="INSERT", times=1_000_000, code=TOO_MANY_PARTS))
    time.sleep(OUTAGE_S)
    matrix.cluster.clickhouse.faults()


def restart_postgres(matrix: Matrix) -> None:
    assert matrix.cluster.postgres is not None
    if matrix.chance.random() < 0.5:
        matrix.cluster.postgres.kill()
    else:
        matrix.cluster.postgres.stop()
    time.sleep(matrix.chance.uniform(0.0, 2.0))
    matrix.cluster.postgres.start()


FAILURES: dict[str, Failure] = {
    "kill gateway": kill_role("gateway"),
    "kill writer": kill_role("writer"),
    "kill query": kill_role("query"),
    "kill tracking": kill_role("tracking"),
    "kill one of 3 brokers": kill_broker,
    "kill ClickHouse": kill_clickhouse,
    "zombie writer": zombie_writer,
    "rebalance storm": rebalance_storm,
    "brokers unreachable": brokers_unreachable,
    "ClickHouse errors": clickhouse_errors,
    "restart PostgreSQL": restart_postgres,
}


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory, new_runs: NewRuns) -> Iterator[Matrix]:
    """One set for all rounds; at the end all ledgers are checked once more, and the table is printed."""
    with RunstreamCluster(tmp_path_factory.mktemp("cluster") / "set", brokers=3) as cluster:
        matrix = Matrix(cluster, new_runs)
        yield matrix
        print(f"\nseed {SEED}\n{matrix.table()}")
        faults = matrix.faults(matrix.ledgers)
        assert not faults, faults


@pytest.mark.parametrize("name", FAILURES)
def test_nothing_is_lost_or_doubled(matrix: Matrix, name: str) -> None:
    for number in range(1, ROUNDS + 1):
        matrix.round(name, number, FAILURES[name])


def test_reads_without_writers_answer_within_the_bound_and_say_so(matrix: Matrix, new_runs: NewRuns) -> None:
    cluster = matrix.cluster
    (run_id,) = new_runs(cluster.url, 1)
    for writer in cluster.writers:
        writer.kill()
    with Rest(cluster.url) as rest:
        rest.post(
            "api/2.0/mlflow/runs/log-metric", {"run_id": run_id, "key": "k", "value": 1.0, "timestamp": 1}
        )
    started = time.monotonic()
    with urllib.request.urlopen(
        f"{cluster.url}/api/2.0/mlflow/runs/get?run_id={run_id}", timeout=60
    ) as answer:
        assert answer.headers["X-Runstream-Stale"] == "true"
    assert time.monotonic() - started < 30
    for writer in cluster.writers:
        writer.start()
    matrix.await_no_lag()
    with Rest(cluster.url) as rest:
        assert [point["value"] for point in rest.history(run_id, "k")] == [1.0]
