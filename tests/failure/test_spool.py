"""The client that spools, in real processes, against a real server: nothing lost, nothing doubled, statuses right."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.mlflow_client import Rest
from support.runstream_server import RunstreamServer
from support.spooled import check, end, server_run, sync, sync_process, training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunstreamServer]:
    """One server for all of these."""
    with RunstreamServer(tmp_path_factory.mktemp("spool") / "data") as running:
        yield running


@pytest.fixture
def rest(server: RunstreamServer) -> Rest:
    return Rest(server.url)


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody answers: connections are refused."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def status(rest: Rest, run_id: str) -> str:
    return str(server_run(rest, run_id)["info"]["status"])


@pytest.mark.slow_suite
def test_a_whole_training_goes_through_the_spool_and_leaves_nothing_there(
    server: RunstreamServer, rest: Rest, tmp_path: Path
) -> None:
    with training("whole", tmp_path, server.url) as one:
        one.wait()
    check(rest, one)
    run = server_run(rest, one.run_id)
    data = run["data"]
    assert run["info"]["status"] == "FINISHED"
    assert {param["key"]: param["value"] for param in data["params"]} == {
        "lr": "0.1",
        "depth": "3",
        "note": "ü",
    }
    assert {tag["key"]: tag["value"] for tag in data["tags"]}["kind"] == "changed"
    assert list(one.spool.rglob("*.rsf")) == []


@pytest.mark.slow_suite
@pytest.mark.parametrize("order", ["at once", "one after the other"])
def test_a_training_without_a_server_is_sent_later_by_whomever_and_however_often(
    server: RunstreamServer, rest: Rest, tmp_path: Path, nobody: str, order: str
) -> None:
    environment = {"RUNSTREAM_OFFLINE": "1"} if order == "at once" else {}
    with training("whole", tmp_path, nobody, **environment) as one:
        one.wait()
    assert "points)" in sync(one.spool, "--dry-run")
    assert "FINISHED" in sync(one.spool, "--status")
    if rest.get("api/1.0/runstream/ingest")["create"]:
        # On a server that chooses ids itself, two that begin with the same run at the same moment would make two.
        crashed = sync_process(one.spool, "--to", server.url)
        end(crashed)
        both = [sync_process(one.spool, "--to", server.url, "--keep") for _ in range(2)]
        outputs = [process.communicate(timeout=240)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0], outputs
    for _ in range(2):
        sync(one.spool, "--to", server.url)
    check(rest, one)
    runs = {run["info"]["run_name"]: run for run in (server_run(rest, run_id) for run_id, *_ in one.points())}
    assert {name: run["info"]["status"] for name, run in runs.items()} == {
        "outer": "FINISHED",
        "inner": "FINISHED",
    }
    tags = {tag["key"]: tag["value"] for tag in runs["inner"]["data"]["tags"]}
    assert tags["mlflow.parentRunId"] == runs["outer"]["info"]["run_id"]
    experiment = rest.get(
        "api/2.0/mlflow/experiments/get", experiment_id=runs["outer"]["info"]["experiment_id"]
    )["experiment"]
    assert experiment["name"] == "spooled trainings"
    files = rest.get(f"api/2.0/mlflow/artifacts/list?path=texts&run_id={runs['outer']['info']['run_id']}")[
        "files"
    ]
    assert [file["path"] for file in files] == ["texts/hello.txt"]
    assert list(one.spool.rglob("*.rsf")) == []


@pytest.mark.parametrize("seed", range(1))
def test_kill_9_of_a_training_loses_nothing_that_was_acknowledged(
    server: RunstreamServer, rest: Rest, tmp_path: Path, seed: int
) -> None:
    with training("endless", tmp_path, server.url) as one:
        one.await_points(random.Random(seed).randrange(20, 600))
        one.kill()
        assert status(rest, one.run_id) == "RUNNING"
        sync(one.spool)
    check(rest, one, unacknowledged=1)


@pytest.mark.slow_suite
def test_kill_9_of_the_server_and_of_a_sender_in_between(tmp_path: Path) -> None:
    with RunstreamServer(tmp_path / "data") as own:
        with training("endless", tmp_path, own.url) as one:
            one.await_points(200)
            beside = sync_process(one.spool, "--follow")
            one.await_points(600)
            own.kill()
            end(beside)
            one.await_points(1_200)
            own.start()
            one.await_points(1_600)
            one.process.send_signal(signal.SIGTERM)
            one.wait(-signal.SIGTERM)
        sync(one.spool)
        rest = Rest(own.url)
        check(rest, one, unacknowledged=1)
        assert status(rest, one.run_id) == "KILLED"


def test_forked_children_log_for_themselves(server: RunstreamServer, rest: Rest, tmp_path: Path) -> None:
    with training("forks", tmp_path, server.url) as one:
        one.wait()
    sync(one.spool)
    check(rest, one)
    assert {key for _, key, *_ in one.points()} == {"parent", "child0", "child2"}
    assert status(rest, one.run_id) == "FINISHED"


def test_a_requeued_job_goes_on_in_the_same_run(server: RunstreamServer, rest: Rest, tmp_path: Path) -> None:
    with training("endless", tmp_path, server.url, name="first") as first:
        first.await_points(50)
        first.process.send_signal(signal.SIGTERM)
        first.wait(-signal.SIGTERM)
    assert status(rest, first.run_id) == "KILLED", first.text()
    again = {"MLFLOW_RUN_ID": first.run_id, "RANK": "7"}
    with training("some", tmp_path, server.url, name="second", **again) as second:
        second.await_points(20)
        assert status(rest, first.run_id) == "RUNNING"
        second.wait()
    assert second.run_id == first.run_id
    with training("some", tmp_path, server.url, name="third", **{**again, "RANK": "8"}) as third:
        third.wait()
    check(rest, first, second, third, unacknowledged=1)
    assert status(rest, first.run_id) == "FINISHED"
    assert "refuse" not in second.text() + third.text(), (
        "a param logged again with the same value is no error"
    )


def test_ends_of_other_kinds(server: RunstreamServer, rest: Rest, tmp_path: Path) -> None:
    with training("fails", tmp_path, server.url, name="fails") as fails:
        fails.wait(1)
    with training("endless", tmp_path, server.url, name="interrupted") as interrupted:
        interrupted.await_points(10)
        interrupted.process.send_signal(signal.SIGINT)
        interrupted.process.wait(240)
    with training("handles", tmp_path, server.url, name="handles") as handles:
        handles.await_points(10)
        handles.process.send_signal(signal.SIGTERM)
        handles.wait(3)
    assert "handled" in handles.lines(), "the training's own handler was called"
    sync(fails.spool)
    assert status(rest, fails.run_id) == "FAILED"
    # As MLflow's own context manager says of them.
    assert status(rest, interrupted.run_id) in ("FAILED", "KILLED")
    assert status(rest, handles.run_id) in ("FAILED", "KILLED")
    check(rest, fails)
    check(rest, interrupted, handles, unacknowledged=2)


def test_nothing_locks_or_renames(tmp_path: Path, nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that cannot: every attempt is an error."""
    import fcntl

    from runstream.ingest.client.run import start_run

    def refuse(*_: object, **__: object) -> None:
        raise OSError("not supported")

    for module, name in ((fcntl, "flock"), (fcntl, "lockf"), (os, "rename"), (os, "replace"), (os, "link")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setenv("RUNSTREAM_OFFLINE", "1")
    threads = threading.active_count()
    with start_run(uri=nobody, spool=tmp_path) as run:
        for step in range(10):
            run.log({"loss": 0.5, "accuracy": 0.1}, step=step)
    assert threading.active_count() == threads, "offline, no thread is needed"
    from runstream.ingest.client.sync import examine

    (state,) = examine(tmp_path)
    assert (state.points, state.status) == (20, "FINISHED")
