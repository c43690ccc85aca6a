"""No route of the gateway shows or changes more than a stock server does, whoever asks for whose run.

Every route, for a caller of the run's own workspace, of another, of none and of one that does not exist, with
workspaces on and off, beside a stock server with the same data. A new route has to say in ``support.walls_table`` what
it would show.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from runstream.ingest.gateway.app import GatewayParts, create_gateway
from runstream.ingest.gateway.artifacts.config import ArtifactConfig
from runstream.ingest.gateway.config import GatewayConfig
from runstream.ingest.gateway.telemetry import GatewayTelemetry
from runstream.ingest.queue.protocol import Depth, Producer
from support.runstream_server import RunstreamServer
from support.stock import StockServer
from support.walls import HEADER, OTHER, OWN, SECRETS, UNKNOWN, Site, Target
from support.walls_table import Probe, probes

PROBES = probes()


@dataclass
class Sides:
    """Two servers with the same data. ``read`` is what nobody changes."""

    ours: Site
    stock: Site
    read: dict[str, Target]


# Without workspaces there is one wall only, for callers who name one all the same.
@pytest.fixture(scope="module", params=["workspaces", pytest.param("plain", marks=pytest.mark.slow_suite)])
def sides(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    folder: Path = tmp_path_factory.mktemp("walls")
    workspaces = request.param == "workspaces"
    stock = StockServer(folder / "stock", flags=["--enable-workspaces"] if workspaces else [])
    environment = {"MLFLOW_ENABLE_WORKSPACES": "true"} if workspaces else {}
    # Both at once: starting them is half of the time.
    server = RunstreamServer(folder / "data", environment=environment)
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stack:
        starting = pool.submit(stock.start)
        stack.callback(stock.stop)
        stack.enter_context(server)
        starting.result()
        made = Sides(Site(server.url, workspaces), Site(stock.url, workspaces), {})
        for side in (made.ours, made.stock):
            side.prepare()
            made.read[side.url] = side.target(models=True)
        yield made


def send(
    site: Site, caller: str, probe: Probe, target: Target, odd: Sequence[tuple[str, str]] | None = None
) -> tuple[bool, set[str]]:
    """Whether it was answered as wanted, and the secrets in the answer. ``odd`` as in ``Site.send``."""

    def filled(value: Any) -> Any:
        if isinstance(value, str):
            for name, given in target.names().items():
                value = value.replace(f"{{{name}}}", given)
            return value
        if isinstance(value, dict):
            return {key: filled(one) for key, one in value.items()}
        return [filled(one) for one in value] if isinstance(value, list) else value

    more: dict[str, Any] = {"headers": dict(probe.headers)}
    if probe.arrow:
        more["data"] = point(target.run)
    elif probe.body is not None:
        more["json"] = filled(probe.body)
    elif probe.data is not None:
        more["data"] = probe.data.replace(b"%s", target.run.encode())
        if probe.own:
            more["headers"]["Content-Type"] = "application/json"
    answer = site.send(caller, probe.method, filled(probe.path), stream=probe.stream, odd=odd, **more)
    return answer.status < 300, {secret for secret in SECRETS if secret in answer.text}


def point(run_id: str) -> bytes:
    """A point in Arrow."""
    columns: dict[str, list[Any]] = {
        "run_id": [run_id],
        "key": ["loss"],
        "step": [9],
        "timestamp": [9],
        "value": [1.5],
    }
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def test_reads(sides: Sides) -> None:
    wrong = []
    for probe in (one for one in PROBES if one.kind == "read" and not one.own):
        for caller in sides.ours.callers():
            granted, shown = send(sides.ours, caller, probe, sides.read[sides.ours.url])
            stock_granted, stock_shown = send(sides.stock, caller, probe, sides.read[sides.stock.url])
            if (granted and not stock_granted) or not shown <= stock_shown:
                wrong.append(
                    f"{probe}: {caller} sees {granted}, {shown}; stock: {stock_granted}, {stock_shown}"
                )
            if caller == sides.ours.owner and (granted, shown) != (stock_granted, stock_shown):
                wrong.append(
                    f"{probe}: its owner sees {granted}, {shown}; stock: {stock_granted}, {stock_shown}"
                )
    assert not wrong, "\n".join(wrong)


def test_reads_of_runstreams_own(sides: Sides) -> None:
    """Where the MLflow server shows the run, and nowhere else."""
    wrong = []
    get = next(one for one in PROBES if one.path == "/api/2.0/mlflow/runs/get?run_id={run}")
    for caller in sides.ours.callers():
        visible, _ = send(sides.stock, caller, get, sides.read[sides.stock.url])
        for probe in (one for one in PROBES if one.own and one.kind == "read"):
            granted, shown = send(sides.ours, caller, probe, sides.read[sides.ours.url])
            if (shown and not visible) or (probe.stream and granted and not visible):
                wrong.append(f"{probe}: shows {shown or 'live points'} to {caller}")
            of_runs = (
                probe.body == {"runs": ["{run}"]} and probe.method == "POST" and probe.route.count("/") > 4
            )
            if visible and of_runs and not probe.path.startswith(("//", "/%")) and not granted:
                wrong.append(f"{probe}: refuses {caller}, who may see the run")
    assert not wrong, "\n".join(wrong)


# How a caller might try to be taken for another: the lines of the header that names its workspace.
ODD: list[list[tuple[str, str]]] = [
    [(HEADER, OTHER), (HEADER, OWN)],
    [(HEADER, OWN), (HEADER, OTHER)],
    [(HEADER, f"{OTHER}, {OWN}")],
    [(HEADER.lower(), OTHER), (HEADER.upper(), OWN)],
    [(HEADER.lower(), OTHER)],
    [(HEADER, f"  {OWN}\t")],
    [(HEADER, OWN.upper())],
    [(HEADER, "team%2Da")],
    [(HEADER, "")],
    [(HEADER, "   ")],
    [(HEADER, "team-\u00e4")],
    [(HEADER, f"../{OWN}")],
    [(HEADER, "default")],
    [("X_MLFLOW_WORKSPACE", OWN)],
    [(HEADER, OTHER), ("X_MLFLOW_WORKSPACE", OWN)],
    [(HEADER, OTHER), ("Connection", HEADER)],
]
# Where it might be named instead, and other ways to the same files.
ELSEWHERE = [
    "/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=loss&workspace=team-a&X-MLFLOW-WORKSPACE=team-a",
    "/api/2.0/mlflow/metrics/get-history/?run_id={run}&metric_key=loss",
    "/workspaces/team-a/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=loss",
    "/api/3.0/mlflow/workspaces/team-a/runs/get?run_id={run}",
    "/api/2.0/mlflow-artifacts/artifacts/{root}/f.txt/",
    "/api/2.0/mlflow-artifacts/artifacts/x/../{root}/f.txt",
    "/api/2.0/mlflow-artifacts/artifacts/./{root}/f.txt",
    "/api/2.0/mlflow-artifacts/artifacts//{root}/f.txt",
    "/api/2.0/mlflow-artifacts/artifacts/%2E%2E/{root}/f.txt",
    "/api/2.0/mlflow-artifacts/artifacts/workspaces/nowhere/../team-a/f.txt",
    "/api/2.0/mlflow-artifacts/artifacts?path=workspaces",
    "/api/2.0/mlflow-artifacts/artifacts?path=workspaces/nowhere",
    "/api/2.0/mlflow-artifacts/artifacts?path=workspaces/team-a",
    "/api/2.0/mlflow-artifacts/artifacts?path=.",
    "/api/2.0/mlflow-artifacts/presigned/{root}/f.txt",
]


def _exemplary() -> list[Probe]:
    """One way to each read route."""
    found: dict[str, Probe] = {}
    for probe in PROBES:
        if probe.kind == "read" and not probe.stream and "/ajax-api/" not in probe.path:
            found.setdefault(f"{probe.method} {probe.route}", probe)
    return list(found.values())


def test_odd_ways_to_name_a_workspace(sides: Sides) -> None:
    wrong = []
    tried = [(probe, odd) for probe in _exemplary() for odd in ODD]
    tried += [
        (Probe("GET", path, path), odd)
        for path in ELSEWHERE
        for odd in ([], [(HEADER, OTHER)], [(HEADER, UNKNOWN)])
    ]
    get = next(one for one in PROBES if one.path == "/api/2.0/mlflow/runs/get?run_id={run}")
    for probe, odd in tried:
        granted, shown = send(sides.ours, "none", probe, sides.read[sides.ours.url], odd)
        if not shown and not (granted and not probe.own):
            continue
        asked = get if probe.own else probe
        stock_granted, stock_shown = send(sides.stock, "none", asked, sides.read[sides.stock.url], odd)
        visible = stock_granted if probe.own else shown <= stock_shown and (stock_granted or not granted)
        if not visible:
            wrong.append(f"{probe} with {odd}: {granted}, {shown}; stock: {stock_granted}, {stock_shown}")
    assert not wrong, "\n".join(wrong)


CHANGES = [probe for probe in PROBES if probe.kind != "read"]


def test_writes_and_deletions_of_strangers(sides: Sides) -> None:
    wrong = []
    targets = {site.url: site.target() for site in (sides.ours, sides.stock)}
    as_made = sides.ours.state(targets[sides.ours.url])
    *strangers, _ = sides.ours.callers()
    for some in (CHANGES[at : at + 10] for at in range(0, len(CHANGES), 10)):
        for probe in some:
            for caller in strangers:
                granted, shown = send(sides.ours, caller, probe, targets[sides.ours.url])
                if probe.own:
                    continue  # it answers with what it has refused
                stock_granted, stock_shown = send(sides.stock, caller, probe, targets[sides.stock.url])
                if (granted and not stock_granted) or not shown <= stock_shown:
                    wrong.append(
                        f"{probe}: {caller} gets {granted}, {shown}; stock: {stock_granted}, {stock_shown}"
                    )
        if sides.ours.state(targets[sides.ours.url]) != as_made:
            assert sides.stock.state(targets[sides.stock.url]) != as_made, f"one of these: {some}, {wrong}"
    assert not wrong, "\n".join(wrong)


def test_writes_and_deletions_of_the_owner(sides: Sides) -> None:
    wrong = []
    targets: dict[str, Target] = {}
    as_made: dict[str, str] = {}
    owner = sides.ours.owner
    for probe in CHANGES:
        outcomes = []
        for site in (sides.ours, sides.stock)[: 1 if probe.own else 2]:
            if site.url not in targets:
                targets[site.url] = site.target()
                as_made.setdefault(site.url, site.state(targets[site.url]))
            outcome = send(site, owner, probe, targets[site.url])
            changed = site.state(targets[site.url]) != as_made[site.url]
            outcomes.append((*outcome, changed))
            if changed:
                del targets[site.url]
        wanted = (True, set(), True) if probe.arrow else outcomes[-1]
        if outcomes[0] != wanted:
            wrong.append(f"{probe}: {owner}, whose run it is, gets {outcomes[0]}; stock: {wanted}")
    assert not wrong, "\n".join(wrong)


class NoQueue:
    """A producer that nobody uses."""

    def depth(self) -> Depth:
        return Depth(0, 0)

    async def check(self) -> None:
        pass

    async def close(self) -> None:
        pass


async def _routes() -> set[tuple[str, str]]:
    parts = GatewayParts(
        config=GatewayConfig(
            tracking_url="http://127.0.0.1:9",
            query_url="http://127.0.0.1:9",
            internal_token="secret",
            artifacts=ArtifactConfig(url="memory:"),
        ),
        producer=cast(Producer, NoQueue()),
        telemetry=GatewayTelemetry(CollectorRegistry()),
        expose=lambda: b"",
    )
    runner = web.AppRunner(create_gateway(parts).app)
    await runner.setup()
    routes = runner.app.router.routes()
    found = {(route.method, route.resource.canonical) for route in routes if route.resource is not None}
    await runner.cleanup()
    return found


def test_every_route_is_in_the_table() -> None:
    known = {(probe.method, probe.route) for probe in PROBES} | {("*", probe.route) for probe in PROBES}
    missing = asyncio.run(_routes()) - known
    assert not missing, (
        f"say in tests/support/walls_table.py what these show or change: {json.dumps(sorted(missing))}"
    )
