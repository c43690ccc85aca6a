"""The notebook client against a real query service, beside a stock MLflow server for what is MLflow's."""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from aiohttp import ClientSession, web

import runstream
from runstream.query.client import Connection, default
from support.clickhouse_engine import insert_points, shared_database
from support.query_server import Fresh, query_server, serving
from support.stock import stock_server

CURVE = [(i, 1_000 + i, 1 / (i + 1)) for i in range(50)]


@dataclass
class Server:
    url: str
    experiment: str
    runs: list[str]


def _front(tracking: str, query: str) -> web.Application:
    """What the gateway does for reads: our own routes to the query service, the rest to MLflow."""

    async def relay(request: web.Request) -> web.StreamResponse:
        base = query if request.path.startswith("/api/1.0/runstream") else tracking
        async with ClientSession() as session:
            headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
            async with session.request(
                request.method, base + request.raw_path, data=await request.read(), headers=headers
            ) as answer:
                response = web.StreamResponse(status=answer.status)
                response.content_type = answer.content_type
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                return response

    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{tail:.*}", relay)
    return app


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    import requests

    with stock_server(tmp_path_factory.mktemp("client")) as stock, query_server() as query:
        api = f"{stock.url}/api/2.0/mlflow"
        name = uuid.uuid4().hex
        experiment = requests.post(f"{api}/experiments/create", json={"name": name}).json()["experiment_id"]
        runs = []
        for rate in ("0.1", "0.2", "0.3"):
            body = {"experiment_id": experiment, "run_name": f"rate {rate}", "start_time": 1_700_000_000_000}
            run = requests.post(f"{api}/runs/create", json=body).json()["run"]["info"]["run_id"]
            requests.post(f"{api}/runs/log-parameter", json={"run_id": run, "key": "rate", "value": rate})
            runs.append(run)
            insert_points(shared_database(), run, "train/loss", CURVE)
            insert_points(shared_database(), run, "lr", [(0, 5, float(rate))])
        with serving(lambda: _front(stock.url, query)) as url:
            yield Server(url, name, runs)


@pytest.fixture
def connection(server: Server) -> Iterator[Connection]:
    with runstream.connect(server.url) as made:
        yield made


def test_points_as_pandas(connection: Connection, server: Server) -> None:
    frame = connection.get_metrics(server.runs)
    assert list(frame.columns) == ["run_id", "key", "step", "timestamp", "value"]
    assert len(frame) == 3 * 51
    of_one = frame[(frame["run_id"] == server.runs[0]) & (frame["key"] == "train/loss")]
    assert list(zip(of_one["step"], of_one["timestamp"], of_one["value"], strict=True)) == CURVE
    assert frame["timestamp"].dtype == np.int64
    assert isinstance(frame, runstream.MetricsFrame)


def test_points_in_other_shapes(connection: Connection, server: Server) -> None:
    table = connection.get_metrics(server.runs, as_="arrow")
    assert isinstance(table, pa.Table)
    assert table.num_rows == 153
    polars = connection.get_metrics(server.runs, "lr", as_="polars")
    assert sorted(polars["value"].to_list()) == [0.1, 0.2, 0.3]
    wide = connection.get_metrics(server.runs[0], as_="wide")
    assert list(wide.columns) == ["lr", "train/loss"]
    assert wide.loc[(server.runs[0], 0), "lr"] == 0.1
    assert wide.loc[(server.runs[0], 49), "train/loss"] == 1 / 50
    with pytest.raises(ValueError, match="as_"):
        connection.get_metrics(server.runs, as_="excel")  # type: ignore[arg-type]


def test_a_large_transfer(connection: Connection) -> None:
    run = uuid.uuid4().hex
    shared_database().execute(
        "INSERT INTO metrics (run_id, key, step, timestamp, value)"
        " SELECT {run:String}, 'k', number, number, sin(number) FROM numbers(400000)",
        {"run": run},
    )
    frame = connection.get_metrics(run, progress=True)
    assert frame["step"].tolist() == list(range(400_000))
    np.testing.assert_allclose(frame["value"], np.sin(np.arange(400_000)), rtol=0, atol=1e-12)


def test_selections(connection: Connection, server: Server) -> None:
    assert len(connection.get_metrics(server.runs, "train/*", steps=(10, 19))) == 30
    assert len(connection.get_metrics(server.runs, ["lr", "train/loss"], time=(None, 1_000))) == 6
    assert len(connection.get_metrics(server.runs, "train/loss", max_points=10)) == 30
    assert connection.get_metrics("nobody").empty


class Info:
    def __init__(self, run_id: str) -> None:
        self.run_id = run_id


class MlflowRun:
    def __init__(self, run_id: str) -> None:
        self.info = Info(run_id)


def test_runs_however_they_are_named(connection: Connection, server: Server) -> None:
    import polars

    first, second, third = server.runs
    for runs, count in (
        (first, 1),
        ([first, second], 2),
        (MlflowRun(first), 1),
        ([MlflowRun(first), Info(second), third], 3),
        (pd.DataFrame({"run_id": server.runs, "status": "FINISHED"}), 3),
        (polars.DataFrame({"run_id": server.runs}), 3),
        (pd.Series([first, first]), 1),
        (connection.get_run(first), 1),
        ((run for run in server.runs), 3),
    ):
        assert connection.get_metrics(runs, "lr")["run_id"].nunique() == count
    assert len(connection.get_metrics(experiment=server.experiment, keys="lr")) == 3
    assert list(
        connection.get_metrics(experiment=server.experiment, filter="params.rate = '0.2'", keys="lr")["value"]
    ) == [0.2]
    for wrong, error in ((5, TypeError), ([], ValueError), ({"a": 1}, TypeError), (None, ValueError)):
        with pytest.raises(error):
            connection.get_metrics(wrong)
    with pytest.raises(ValueError, match="not both"):
        connection.get_metrics(first, experiment=server.experiment)
    with pytest.raises(ValueError, match="no run"):
        connection.get_metrics(experiment=server.experiment, filter="params.rate = '9'")


def test_an_experiment_named_by_digits_is_found(connection: Connection, server: Server) -> None:
    import requests

    api = f"{server.url}/api/2.0/mlflow"
    name = str(uuid.uuid4().int)[:12]
    ids = requests.post(f"{api}/experiments/create", json={"name": name}, timeout=30).json()
    body = {"experiment_id": ids["experiment_id"]}
    run = requests.post(f"{api}/runs/create", json=body, timeout=30).json()["run"]["info"]["run_id"]
    insert_points(shared_database(), run, "lr", [(0, 5, 0.5)])
    for experiment in (name, ids["experiment_id"], int(ids["experiment_id"]), [name]):
        assert list(connection.get_metrics(experiment=experiment, keys="lr")["value"]) == [0.5]


def test_the_other_questions(connection: Connection, server: Server) -> None:
    newest = connection.latest_metrics(server.runs)
    assert set(newest[newest["key"] == "train/loss"]["step"]) == {49}
    summary = connection.summary(server.runs, "train/*")
    assert set(summary["count"]) == {50}
    assert summary["max_step"].tolist() == [0, 0, 0]
    bands = connection.aggregate(experiment=server.experiment, keys="lr", stats=("mean", "count"))
    assert bands["mean"].tolist() == pytest.approx([0.2])
    assert bands["count"].tolist() == [3]
    found = connection.sql(
        "select max(step) as top from metrics where run_id = {run:String}", run=server.runs[0]
    )
    assert found["top"].tolist() == [49]


def test_a_run(connection: Connection, server: Server) -> None:
    run = connection.get_run(server.runs[0])
    assert run.name == "rate 0.1"
    assert run.params == {"rate": "0.1"}
    metrics = run.get_metrics()
    assert metrics["lr"] == 0.1
    assert metrics["train/loss"] == [value for _, _, value in CURVE]
    assert run.get_metrics("lr") == {"lr": 0.1}
    details = run.get_details()
    assert details["runId"] == server.runs[0]
    assert details["status"] == "RUNNING"
    assert details["startTimeUtc"] == "2023-11-14T22:13:20Z"
    assert run.get_portal_url() == f"{server.url}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
    assert connection.get_details()["mlflow_version"]


def test_errors_say_what_is_wrong(connection: Connection) -> None:
    with pytest.raises(runstream.ServerError) as raised:
        connection.get_run("0" * 32)
    assert raised.value.status == 404
    assert raised.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    with pytest.raises(runstream.ServerError, match="max_points"):
        connection.get_metrics("a", max_points=1)
    with pytest.raises(ValueError, match="URL"):
        runstream.connect("sqlite:///x.db")


def test_plots(connection: Connection, server: Server, tmp_path: Path) -> None:
    frame = connection.get_metrics(server.runs)
    figure = frame.plot()
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["lr", "train/loss"]
    assert [len(axis.lines) for axis in figure.axes] == [3, 3]
    figure.savefig(tmp_path / "plot.png")
    assert len(frame.plot(x="timestamp", log=True).axes) == 2
    # What a notebook asks for that has not imported pyplot.
    assert figure._repr_png_().startswith(b"\x89PNG")
    # pandas' own accessor is still there.
    assert frame[frame["key"] == "lr"].plot.scatter(x="step", y="value") is not None


def test_the_command(server: Server, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from runstream.commands.metrics import metrics

    def call(*arguments: str) -> str:
        done = CliRunner().invoke(metrics, [*arguments, "--uri", server.url], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    run = server.runs[0]
    assert "train/loss" in call(run)
    assert call(run, "--key", "lr", "--format", "csv").splitlines()[1] == f"{run},lr,0,5,0.1"
    assert '"value":0.1' in call(run, "--key", "lr", "--format", "json")
    call(*server.runs, "-o", str(tmp_path / "all.parquet"))
    assert len(pd.read_parquet(tmp_path / "all.parquet")) == 153
    assert "⠀" in call(run, "--plot")
    for name in ("plot.png", "plot.html"):
        call(*server.runs, "--plot", "-o", str(tmp_path / name))
        assert (tmp_path / name).stat().st_size > 1_000
    assert call("nobody").strip() == "no points"


def test_the_default_server_is_mlflow_s(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    assert len(runstream.get_metrics(server.runs, "lr")) == 3
    assert len(runstream.latest_metrics(server.runs, "lr")) == 3
    assert len(runstream.summary(server.runs)) == 6
    assert runstream.get_run(server.runs[0]).run_id == server.runs[0]
    default.close()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI"):
        runstream.get_metrics(server.runs)


async def test_awaiting(server: Server) -> None:
    async with runstream.connect_async(server.url) as connection:
        frames = await asyncio.gather(*(connection.get_metrics(run, "lr") for run in server.runs))
        assert [len(frame) for frame in frames] == [1, 1, 1]
        assert len(await connection.latest_metrics(server.runs)) == 6
        one = await connection.get_run(server.runs[0])
        assert one.run_id == server.runs[0]
        assert (await one.get_metrics("lr")) == {"lr": 0.1}
        assert (await one.get_details())["portalUrl"] == await connection.get_portal_url(one)
        assert await one.get_status() == one.status
        run = uuid.uuid4().hex
        stop = threading.Event()
        writing = threading.Thread(target=keep_writing, args=(run, stop))
        writing.start()
        found = []
        try:
            async with asyncio.timeout(60):
                async for point in connection.tail(run, ["live"]):
                    found.append(point)
                    if len(found) == 5:
                        break
        finally:
            stop.set()
            writing.join()
        assert len(set(found)) == 5


def keep_writing(run: str, stop: threading.Event) -> None:
    step = 0
    while not stop.wait(0.05):
        now = int(time.time() * 1000)
        insert_points(
            shared_database(), run, "live", [(step, now, math.nan if step % 3 == 0 else float(step))]
        )
        insert_points(shared_database(), run, "other", [(step, now, 1.0)])
        step += 1


def test_tail_goes_on_after_a_broken_connection() -> None:
    run = uuid.uuid4().hex
    found: list[runstream.Point] = []
    enough = threading.Event()
    errors: list[BaseException] = []
    with query_server() as query:
        cut: list[Any] = []

        async def relay(request: web.Request) -> web.StreamResponse:
            async with ClientSession() as session:
                headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
                async with session.request(
                    request.method, query + request.raw_path, data=await request.read(), headers=headers
                ) as answer:
                    response = web.StreamResponse(
                        status=answer.status, headers={"Content-Type": answer.content_type}
                    )
                    await response.prepare(request)
                    if request.path.endswith("/live"):
                        cut.append(request.transport)
                    async for chunk in answer.content.iter_any():
                        await response.write(chunk)
                    return response

        def app() -> web.Application:
            made = web.Application()
            made.router.add_route("*", "/{tail:.*}", relay)
            return made

        with serving(app) as url, runstream.connect(url) as connection:

            def listen() -> None:
                try:
                    for point in connection.tail(run, "live"):
                        found.append(point)
                        if point.step >= 25:
                            enough.set()
                            return
                except BaseException as error:
                    errors.append(error)
                    enough.set()

            listening = threading.Thread(target=listen, daemon=True)
            listening.start()
            stop = threading.Event()
            writing = threading.Thread(target=keep_writing, args=(run, stop))
            writing.start()
            try:
                for _ in range(2):
                    wait_for(lambda: len(found) % 10 > 3 or enough.is_set())
                    cut[-1].abort()
                    wait_for(lambda: len(cut) > 1 or enough.is_set())
                assert enough.wait(60)
            finally:
                stop.set()
                writing.join()
            listening.join(10)
    assert not errors
    steps = [point.step for point in found]
    assert len(steps) == len(set(steps)), "a point twice"
    assert steps == list(range(steps[0], 26)), "a point lost"


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_import_is_light() -> None:
    code = (
        "import sys, runstream; assert 'pandas' not in sys.modules and 'httpx' not in sys.modules;"
        "runstream.connect; heavy = {'aiohttp', 'mlflow', 'chdb', 'msgspec', 'clickhouse_connect'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())}
    )


def test_credentials_are_mlflow_s(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response({"run": {"info": {"run_id": "a", "experiment_id": "1"}}})

    def app() -> web.Application:
        made = web.Application()
        made.router.add_route("*", "/{tail:.*}", answer)
        return made

    with serving(app) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
        # As they are at each request: tokens expire, and connections outlive them.
        with runstream.connect(url) as connection:
            connection.get_run("a")
            for token in ("token", "newer"):
                monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
                connection.get_run("a")
        monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")
        monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
        monkeypatch.setenv("HOME", url)
        with runstream.connect(url.replace("://", "://bob:secret@")) as connection:
            connection.get_run("a")
    assert seen == ["Basic YW5uOnNlY3JldA==", "Bearer token", "Bearer newer", "Basic Ym9iOnNlY3JldA=="]


def test_pressure_is_waited_out() -> None:
    statuses = [503, 429]

    async def answer(request: web.Request) -> web.Response:
        if statuses:
            return web.Response(status=statuses.pop(), headers={"Retry-After": "0"})
        return web.json_response({"run": {"info": {"run_id": "a", "experiment_id": "1"}}})

    def app() -> web.Application:
        made = web.Application()
        made.router.add_route("*", "/{tail:.*}", answer)
        return made

    with serving(app) as url, runstream.connect(url) as connection:
        assert connection.get_run("a").run_id == "a"


def test_live_takes_more_runs_than_an_address_can_name() -> None:
    import requests

    runs = [uuid.uuid4().hex for _ in range(1000)]
    with query_server() as url, runstream.connect(url) as connection:
        address = f"{url}/api/1.0/runstream/live"
        with requests.post(address, json={"runs": runs, "keys": ["a/*"]}, stream=True, timeout=30) as answer:
            assert answer.status_code == 200
            assert b"event: open" in next(answer.iter_content(1 << 16)) + next(answer.iter_content(1 << 16))
        with pytest.raises(runstream.ServerError, match="1000"):
            next(connection.tail([*runs, uuid.uuid4().hex]))


def test_live_refuses_what_it_does_not_know() -> None:
    import requests

    barrier = Fresh()
    with query_server(barrier) as url:
        for path in ("live", "live?run_id=a%20b", "live?run_id=a&key=", "runs/a%20b/metrics/live"):
            answer = requests.get(f"{url}/api/1.0/runstream/{path}", timeout=30)
            assert answer.status_code == 400, path
        body: dict[str, Any]
        for body in (
            {},
            {"runs": []},
            {"runs": ["a b"]},
            {"runs": ["a"], "keys": [""]},
            {"runs": ["a"], "x": 1},
        ):
            answer = requests.post(f"{url}/api/1.0/runstream/live", json=body, timeout=30)
            assert answer.status_code == 400, body
        answer = requests.post(f"{url}/api/1.0/runstream/live", data=b"{}", timeout=30)
        assert answer.status_code == 415
