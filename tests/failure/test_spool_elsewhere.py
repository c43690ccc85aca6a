"""The same spool before a stock MLflow server, which knows no frames and chooses ids itself, and before Runstream."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runstream.ingest.client.run import start_run
from support.flaky_proxy import FlakyProxy
from support.mlflow_client import Rest
from support.runstream_server import RunstreamServer
from support.spooled import check, end, server_run, sync, sync_process, training
from support.stock import stock_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with stock_server(tmp_path_factory.mktemp("stock")) as server:
        yield server.url


@pytest.fixture(params=["stock", "runstream"])
def url(request: pytest.FixtureRequest) -> str:
    """One server after the other."""
    if request.param == "stock":
        return str(request.getfixturevalue("stock"))
    server: RunstreamServer = request.getfixturevalue("runstream_server")
    return server.url


def values(pairs: list[dict[str, str]]) -> dict[str, str]:
    return {pair["key"]: pair["value"] for pair in pairs}


def test_two_senders_that_begin_at_once_create_each_run_once(stock: str, tmp_path: Path) -> None:
    """Nested runs too, whose parents have another id there; and a sender that was killed in between."""
    with training("whole", tmp_path, NOWHERE, RUNSTREAM_OFFLINE="1") as one:
        one.wait()
    crashed = sync_process(one.spool, "--to", stock, "--keep")
    end(crashed)
    both = [sync_process(one.spool, "--to", stock, "--keep") for _ in range(3)]
    outputs = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0, 0], outputs
    for _ in range(2):
        sync(one.spool, "--to", stock)
    rest = Rest(stock)
    check(rest, one)
    # ``server_run`` finds each by the id that the client gave it, and fails if there are two.
    runs = {run["info"]["run_name"]: run for run in (server_run(rest, run_id) for run_id, *_ in one.points())}
    assert {name: run["info"]["status"] for name, run in runs.items()} == dict.fromkeys(runs, "FINISHED")
    assert set(runs) == {"outer", "inner"}
    tags = values(runs["inner"]["data"]["tags"])
    assert tags["mlflow.parentRunId"] == runs["outer"]["info"]["run_id"]
    outer = runs["outer"]["info"]["run_id"]
    listed = rest.get(f"api/2.0/mlflow/artifacts/list?path=texts&run_id={outer}")
    assert [file["path"] for file in listed["files"]] == ["texts/hello.txt"]
    assert list(one.spool.rglob("*.rsf")) == []


def test_what_a_server_refuses_is_found_and_the_rest_is_stored(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNSTREAM_OFFLINE", "1")
    bad = ("no?", "x" * 251, "../up", "/abs")
    with start_run(uri=url, spool=tmp_path, name="refused in part") as run:
        run_id = run.run_id
        for step in range(300):
            run.log({f"good/{step % 7}": step, **dict.fromkeys(bad[step % 4 : step % 4 + 1], 1.0)}, step=step)
        run.log({"nan": math.nan, "up": math.inf, "down": -math.inf, "zero": -0.0}, step=1)
        run.log_params({**{f"p{n}": n for n in range(250)}, "long": "z" * 7_000, "huge": "z" * 2_000_000})
        run.log_params({"p1": "another value"})
        run.set_tags({**{f"t{n}": "x" * 3_000 for n in range(250)}, "no?": 1, "too long": "x" * 2_000_000})
    output = sync(tmp_path, "--to", url)
    for name in (*(f"metric {key!r}" for key in bad), "param 'p1'", "tag 'no?'"):
        assert output.count(f"{name}: ") == 1, output
    rest = Rest(url)
    found = server_run(rest, run_id)
    there = found["info"]["run_id"]
    for number in range(7):
        steps = [int(point["step"]) for point in rest.history(there, f"good/{number}")]
        assert steps == list(range(number, 300, 7))
    params = values(found["data"]["params"])
    assert {name: params.get(name) for name in ("p0", "p1", "p249")} == {"p0": "0", "p1": "1", "p249": "249"}
    # What is too long is cut by MLflow's server.
    assert {params[name].strip("z") for name in ("long", "huge")} == {""}
    tags = values(found["data"]["tags"])
    assert {"too long", *(f"t{n}" for n in range(250))} <= set(tags)
    shown = {key: float(rest.history(there, key)[0]["value"]) for key in ("nan", "up", "down", "zero")}
    assert math.isnan(shown["nan"])
    assert shown["up"] > 1e308
    assert shown["down"] < -1e308
    assert shown["zero"] == 0.0
    assert found["info"]["status"] == "FINISHED"


def test_a_hostile_training(url: str, tmp_path: Path) -> None:
    with training("hostile", tmp_path, url) as one:
        one.wait()
    assert "Traceback" not in one.text(), one.text()
    output = sync(one.spool)
    rest = Rest(url)
    check(rest, one)
    run = server_run(rest, one.run_id)
    params = values(run["data"]["params"])
    assert (params["good"], params["none"], params["list"]) == ("1", "None", "[1, 2]"), output
    assert run["info"]["status"] == "FINISHED"


def test_a_proxy_that_fails_half_of_the_requests(url: str, tmp_path: Path) -> None:
    with FlakyProxy(url) as proxy:
        with training("some", tmp_path, proxy.url) as one:
            one.wait()
        assert proxy.failed > 3
    assert "Traceback" not in one.text(), one.text()
    sync(one.spool, "--to", url)
    rest = Rest(url)
    check(rest, one)
    assert server_run(rest, one.run_id)["info"]["status"] == "FINISHED"


def test_a_job_with_a_key_goes_on_in_the_same_runs(stock: str, tmp_path: Path) -> None:
    ids, jobs = [], []
    for attempt in range(2):
        job = {"RUNSTREAM_RUN_KEY": "job 5", "KEY": str(attempt)}
        with training("keyed", tmp_path, stock, name=f"try{attempt}", **job) as one:
            one.await_points(30)
            one.process.send_signal(signal.SIGTERM)
            one.wait(-signal.SIGTERM)
        ids.append([line for line in one.lines() if isinstance(line, str)])
        jobs.append(one)
    sync(jobs[0].spool)
    rest = Rest(stock)
    assert ids[0] == ids[1]
    assert [server_run(rest, run_id)["info"]["status"] for run_id in ids[0]] == ["KILLED", "KILLED"]
    check(rest, *jobs, unacknowledged=2)


@pytest.mark.slow_suite
def test_everything_that_a_run_may_hold_without_a_server(url: str, tmp_path: Path) -> None:
    with training("offline_all", tmp_path, NOWHERE, RUNSTREAM_OFFLINE="1") as one:
        one.wait()
    said = {line.split()[1]: line for line in one.text().splitlines() if line.startswith("SAID ")}
    assert set(said) == {"search:", "registry:", "register:"}
    for line in said.values():
        assert "needs the server" in line
        assert "runstream sync" in line
    sync(one.spool, "--to", url)
    sync(one.spool, "--to", url)
    rest = Rest(url)
    check(rest, one)
    run_id = [line for line in one.lines() if isinstance(line, str)][-1]
    run: dict[str, Any] = server_run(rest, run_id)
    assert run["info"]["status"] == "FINISHED"
    (dataset,) = run["inputs"]["dataset_inputs"]
    assert dataset["dataset"]["name"] == "numbers"
    assert values(dataset["tags"])["mlflow.data.context"] == "training"
    (made,) = run["outputs"]["model_outputs"]
    model = rest.get(f"api/2.0/mlflow/logged-models/{made['model_id']}")["model"]["info"]
    assert (model["name"], model["status"]) == ("twice", "LOGGED_MODEL_READY")
    files = rest.get(f"api/2.0/mlflow/logged-models/{made['model_id']}/artifacts/directories")["files"]
    assert "MLmodel" in {file["path"] for file in files}
    import mlflow

    mlflow.set_tracking_uri(url)
    loaded = mlflow.pyfunc.load_model(f"models:/{made['model_id']}")
    assert loaded.predict([1.0, 2.0]) == [2.0, 4.0]
    assert list(one.spool.rglob("*.rsf")) == []
