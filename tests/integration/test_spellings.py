"""One address, one meaning: every route in every spelling, beside a stock server; and what depends on the route."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from support.raw_http import Answer, RawClient
from support.stock import stock_server

API = "/api/2.0/mlflow"
JSON = {"Content-Type": "application/json"}
# How each differs from the path as it is in MLflow's table of routes.
SPELLINGS: dict[str, Callable[[str], str]] = {
    "two slashes first": lambda path: f"/{path}",
    "five slashes first": lambda path: f"////{path}",
    "a slash encoded first": lambda path: f"/%2F{path[1:]}",
    "a letter encoded": lambda path: f"{path[:-1]}%{ord(path[-1]):02x}",
    "letters encoded": lambda path: "".join(f"%{ord(c):02X}" if c == "a" else c for c in path),
    "slashes encoded": lambda path: path[0] + path[1:].replace("/", "%2f"),
    "an empty query": lambda path: f"{path}?",
}
OTHERS: dict[str, Callable[[str], str]] = {
    "a slash at the end": lambda path: f"{path}/",
    "two slashes within": lambda path: path[0] + path[1:].replace("/", "//", 1),
    "a dot segment": lambda path: f"/.{path}",
    "a dot segment within": lambda path: path[0] + path[1:].replace("/", "/./", 1),
    "up and down again": lambda path: f"/x/..{path}",
    "encoded twice": lambda path: f"{path[:-1]}%25{ord(path[-1]):02x}",
    "upper case": lambda path: path.upper(),
    "a fragment": lambda path: f"{path}#x",
    "a parameter": lambda path: f"{path};x=y",
    "a question mark encoded": lambda path: f"{path}%3Fx",
}
_TABLE = """
import json
from mlflow.server import app
print(json.dumps([
    (method, str(rule)) for rule in app.url_map.iter_rules()
    for method in rule.methods - {"OPTIONS", "HEAD"}
]))
"""
# The gateway has rules for these.
_OURS = (
    "/runs/log-metric",
    "/runs/log-batch",
    "/runs/delete",
    "/runs/restore",
    "/runs/get",
    "/runs/search",
    "/metrics/get-history",
    "/experiments/delete",
    "/experiments/restore",
    "/mlflow-artifacts/",
    "/graphql",
    "/health",
)


def table() -> list[tuple[str, str]]:
    """MLflow's own routes."""
    printed = subprocess.run(
        [sys.executable, "-c", _TABLE],
        check=True,
        capture_output=True,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    ).stdout
    routes = [(method, rule) for method, rule in json.loads(printed.splitlines()[-1])]
    concrete = [
        (method, rule.replace("<path:artifact_path>", "0/a").replace("<model_id>", "m-1"))
        for method, rule in routes
    ]
    return sorted({(method, rule) for method, rule in concrete if any(mark in rule for mark in _OURS)})


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawClient]:
    with (
        stock_server(tmp_path_factory.mktemp("stock")) as server,
        contextlib.closing(RawClient(server.url)) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def ours(runstream_url: str) -> Iterator[RawClient]:
    with contextlib.closing(RawClient(runstream_url)) as client:
        yield client


def ask(client: RawClient, method: str, path: str) -> int:
    # An empty object is nothing that any of them could do.
    return client.send(
        method, path, b"{}" if method != "GET" else None, JSON if method != "GET" else {}
    ).status


def differences(stock: RawClient, ours: RawClient, routes: list[tuple[str, str]]) -> list[object]:
    """Where an address is another route here than it is there: by the status of the answer to an empty request."""
    wrong: list[object] = []
    for client in (stock, ours):  # a store without anything in it has not even a folder
        assert client.send("PUT", "/api/2.0/mlflow-artifacts/artifacts/0/b", b"x").status == 200
    for method, path in routes:
        plain = ask(stock, method, path), ask(ours, method, path)
        for name, spell in (SPELLINGS | OTHERS).items():
            theirs, got = ask(stock, method, spell(path)), ask(ours, method, spell(path))
            same = theirs == plain[0] and name in SPELLINGS
            if got != (plain[1] if same else theirs):
                wrong.append((method, spell(path), {"stock": (plain[0], theirs), "ours": (plain[1], got)}))
    return wrong


def test_every_route_with_rules_of_ours_in_every_spelling(stock: RawClient, ours: RawClient) -> None:
    routes = [
        (method, path)
        for method, path in table()
        if any(mark in path for mark in _OURS) and not path.startswith("/ajax-api/")
    ]
    assert len(routes) >= 20
    assert differences(stock, ours, routes) == []


@pytest.mark.slow_suite
@pytest.mark.timeout(1800)
def test_every_route_in_every_spelling(stock: RawClient, ours: RawClient) -> None:
    assert differences(stock, ours, table()) == []


def call(client: RawClient, path: str, body: object) -> Answer:
    return client.send("POST", path, json.dumps(body).encode(), JSON)


def new_run(client: RawClient) -> str:
    created: str = client.call("runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"]
    return created


def point(run: str, step: int) -> dict[str, object]:
    return {"run_id": run, "key": "k", "value": step, "timestamp": 1, "step": step}


def absolute(client: RawClient) -> Callable[[str], str]:
    return lambda path: f"http://{urlsplit(client.url).netloc}{path}"


@pytest.mark.parametrize("name", [*SPELLINGS, "absolute"])
def test_what_depends_on_the_route_holds_in_every_spelling(ours: RawClient, name: str) -> None:
    spell = SPELLINGS.get(name) or absolute(ours)
    run = new_run(ours)
    for step in range(3):
        assert call(ours, spell(f"{API}/runs/log-metric"), point(run, step)).status == 200
        assert (
            call(
                ours, spell(f"{API}/runs/log-batch"), {"run_id": run, "metrics": [point(run, 10 + step)]}
            ).status
            == 200
        )
        # Read your writes: the barrier is waited at.
        path = spell(f"{API}/runs/get").removesuffix("?")
        shown = ours.send("GET", f"{path}?run_id={run}").json["run"]["data"]["metrics"]
        assert [metric["step"] for metric in shown] == [10 + step]
        path = spell(f"{API}/metrics/get-history").removesuffix("?")
        history = ours.send("GET", f"{path}?run_id={run}&metric_key=k").json["metrics"]
        assert len(history) == 2 * (step + 1)
    # Verdicts are forgotten: a deleted run takes nothing, at once.
    assert call(ours, spell(f"{API}/runs/delete"), {"run_id": run}).status == 200
    assert call(ours, f"{API}/runs/log-metric", point(run, 50)).status == 400
    assert call(ours, spell(f"{API}/runs/restore"), {"run_id": run}).status == 200
    assert call(ours, f"{API}/runs/log-metric", point(run, 51)).status == 200


def test_artifacts_have_one_name_in_every_spelling(ours: RawClient) -> None:
    base = f"/api/2.0/mlflow-artifacts/artifacts/spellings-{time.time_ns()}"
    for number, spell in enumerate(SPELLINGS.values()):
        path = spell(f"{base}/a{number} b".replace(" ", "_"))
        assert ours.send("PUT", path, str(number).encode()).status == 200
        assert ours.send("GET", f"{base}/a{number}_b").body == str(number).encode()
    assert ours.send("PUT", f"{base}/sp%20ace%25", b"x").status == 200
    assert ours.send("GET", f"/{base}/sp%20%61ce%25").body == b"x"
