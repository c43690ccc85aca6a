"""kill -9 of any process, and of all at once, at random moments under load: no acknowledged point is ever lost.

Every round has runs and a ledger of its own. All rounds share one data folder, and at the end all of their ledgers are
checked once more. RUNSTREAM_TEST_SEED repeats a seed, RUNSTREAM_TEST_KILL_ROUNDS multiplies the number of rounds
(`make test-all`: by two).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from support.ledger import Ledger, Load
from support.mlflow_client import Rest
from support.runstream_server import RunstreamServer

ROUNDS_FACTOR = float(os.environ.get("RUNSTREAM_TEST_KILL_ROUNDS", "1"))
SEED = os.environ.get("RUNSTREAM_TEST_SEED") or str(random.SystemRandom().randrange(10**6))
CLIENTS = 4
RESTART_WITHIN_S = 60.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NewRuns = Callable[[str, int], list[str]]


class Rounds:
    """Rounds of load and kill on one server, and their ledgers."""

    def __init__(self, server: RunstreamServer, new_runs: NewRuns) -> None:
        self.server = server
        self.ledgers: list[Ledger] = []
        self.chance = random.Random(SEED)
        self._new_runs = new_runs

    def load(self) -> Load:
        """Clients on new runs; to be used in a ``with`` block."""
        runs = self._new_runs(self.server.url, CLIENTS)
        load = Load(self.server.url, runs, seed=self.chance.randrange(1 << 30))
        self.ledgers += load.ledgers
        return load

    def pause(self) -> None:
        """A random while, so that the kill falls anywhere between requests, appends, inserts and commits."""
        time.sleep(self.chance.uniform(0.1, 1.2))

    def check(self, ledgers: list[Ledger]) -> None:
        """Every acknowledged point of these is there exactly once."""
        with Rest(self.server.url) as rest:
            faults = [fault for ledger in ledgers for fault in ledger.faults(rest)]
        assert not faults, f"seed {SEED}:\n" + "\n".join(faults) + f"\n{self.server.text()[-3000:]}"
        assert all(ledger.count() for ledger in ledgers)


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory, new_runs: NewRuns) -> Iterator[Rounds]:
    """One data folder for all rounds of this file; at the end all ledgers are checked once more."""
    server = RunstreamServer(tmp_path_factory.mktemp("kill") / "data", workers=2).start()
    rounds = Rounds(server, new_runs)
    try:
        yield rounds
        assert server.stop() == 0
        server.start()
        rounds.check(rounds.ledgers)
        assert server.stop() == 0
    finally:
        server.kill()


def count(base: int) -> int:
    """How many rounds to do where the suite does ``base``."""
    return max(1, round(base * ROUNDS_FACTOR))


@pytest.mark.parametrize(("victim", "base"), [("gateway", 3), ("storage", 3), ("tracking", 1)])
def test_one_process(rounds: Rounds, victim: str, base: int) -> None:
    """The supervisor starts it again, and the clients carry on by repeating what was refused."""
    server = rounds.server
    for _ in range(count(base)):
        with rounds.load() as load:
            load.await_progress()
            rounds.pause()
            before = server.processes()
            killed = rounds.chance.choice([p for name, p in before.items() if name.startswith(victim)])
            killed.kill()
            await_replacement(server, killed, len(before))
            load.await_progress()
        assert_polite(load)
        rounds.check(load.ledgers)
        others = {process.pid for process in before.values()} - {killed.pid}
        assert others < {process.pid for process in server.processes().values()}


@pytest.mark.parametrize(("victim", "base"), [("all", 2), ("supervisor", 1)])
def test_the_whole_set(rounds: Rounds, victim: str, base: int) -> None:
    """``runstream serve`` on the same folder starts without help, while clients repeat what was not answered."""
    server = rounds.server
    for _ in range(count(base)):
        with rounds.load() as load:
            load.await_progress()
            rounds.pause()
            if victim == "all":
                server.kill()
            else:
                processes = server.processes()
                processes["supervisor"].kill()
                _, alive = psutil.wait_procs(list(processes.values()), timeout=10)
                assert not alive, "children outlive their supervisor"
                server.kill()
            server.start()
            load.await_progress()
        assert_polite(load)
        rounds.check(load.ledgers)


def test_several_processes_while_they_recover(rounds: Rounds) -> None:
    """Kills that follow each other quickly hit processes in the middle of their recovery."""
    server = rounds.server
    with rounds.load() as load:
        for _ in range(count(6)):
            load.await_progress(50)
            processes = server.processes()
            processes.pop("supervisor")
            for name in rounds.chance.sample(sorted(processes), k=rounds.chance.randint(1, len(processes))):
                processes[name].kill()
            time.sleep(rounds.chance.uniform(0, 1))
        load.await_progress()
    assert_polite(load)
    await_all(server)
    rounds.check(load.ledgers)


def test_stock_client_carries_on(rounds: Rounds, new_runs: NewRuns) -> None:
    """Nothing but MLflow's own client and its own retries, through kills of the gateways and of the storage."""
    from mlflow import MlflowClient

    server = rounds.server
    (run_id,) = new_runs(server.url, 1)
    client = MlflowClient(server.url)
    for step in range(200):
        if step in (40, 120):
            for name, process in server.processes().items():
                if name.startswith("gateway"):
                    process.kill()
        if step in (80, 121):
            # The supervisor may be just about to start it again.
            await_process(server, "storage").kill()
        client.log_metric(run_id, "loss", step / 7, step=step)
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "loss")] == [
        (step, step / 7) for step in range(200)
    ]
    assert client.get_run(run_id).data.metrics == {"loss": 199 / 7}


def assert_polite(load: Load) -> None:
    """Refusals were ones that a client retries, and say when; nothing else went wrong."""
    assert load.errors == []
    answered = [refusal for refusal in load.refusals if refusal.status]
    assert [r for r in answered if r.status not in (429, 503)] == []
    assert [r for r in answered if not r.retry_after] == []


def await_process(server: RunstreamServer, name: str) -> psutil.Process:
    """The process of this name, once there is one."""
    deadline = time.monotonic() + RESTART_WITHIN_S
    while (process := server.processes().get(name)) is None:
        assert time.monotonic() < deadline, f"{name} is not started:\n{server.text()[-2000:]}"
        time.sleep(0.02)
    return process


def await_replacement(server: RunstreamServer, killed: psutil.Process, count: int) -> None:
    """Wait until the set is as large as before without this process, and everything answers."""
    deadline = time.monotonic() + RESTART_WITHIN_S
    while True:
        pids = {process.pid for process in server.processes().values()}
        if len(pids) == count and killed.pid not in pids:
            break
        assert time.monotonic() < deadline, f"not started again:\n{server.text()[-2000:]}"
        time.sleep(0.05)
    await_all(server)


def await_all(server: RunstreamServer) -> None:
    """Wait until ``/ready`` says so several times: each is a new connection, to any gateway."""
    deadline = time.monotonic() + RESTART_WITHIN_S
    ready = 0
    while ready < 8:
        try:
            ready = ready + 1 if server.get("/ready") else 0
        except OSError:
            ready = 0
            assert time.monotonic() < deadline, f"not ready again:\n{server.text()[-2000:]}"
            time.sleep(0.1)
