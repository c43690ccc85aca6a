"""Every route of Runstream's own says what a caller must be allowed to see, and a second spelling says nothing."""

from __future__ import annotations

from typing import Any, cast

import pytest
from aiohttp import web

from runstream.ingest.gateway.reads.needs import Need, find
from runstream.query.service import QueryConfig, create_app
from runstream.schemas.wire import API, INTERNAL

RUN = "0123456789abcdef0123456789abcdef"
# What the gateway mounts of the query service under other rules: MLflow's histories, and what only roles may ask.
ELSEWHERE = (f"{INTERNAL}/", "/api/2.0/mlflow/", "/ajax-api/2.0/mlflow/", "/health")


def served() -> list[tuple[str, str]]:
    app: web.Application = create_app(cast(Any, None), cast(Any, None), QueryConfig(internal_token="secret"))
    return [
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and not route.resource.canonical.startswith(ELSEWHERE)
    ]


def test_the_query_service_has_routes() -> None:
    assert ("POST", f"{API}/metrics/query") in served()


@pytest.mark.parametrize(("method", "path"), served())
def test_every_route_has_a_need(method: str, path: str) -> None:
    concrete = (
        path.replace("{run_id}", RUN).replace("{version}/{name}", "0a1b/js/main.js").replace("{tail}", "x/y")
    )
    need, run_id = find(method, concrete)
    known = need is not Need.EVERYTHING or path == f"{API}/sql"
    assert known, f"{method} {path} is not in ingest/gateway/reads/needs.py: say there what it shows"
    assert (run_id == RUN) == (need is Need.RUN_IN_PATH)
    assert (need is Need.NOTHING) == path.startswith(("/runstream", f"{API}/openapi.json"))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{API}/metrics/other"),
        ("PUT", f"{API}/metrics/query"),
        ("GET", f"{API}/metrics/query"),
        ("POST", f"{API}/metrics/query/"),
        ("POST", f"/{API}/metrics/query"),
        ("GET", f"{API}/runs/{RUN}/metrics"),
        ("GET", f"{API}/runs/{RUN}/x/metrics/live"),
        ("GET", "/runstream/../api/1.0/runstream/live"),
        ("GET", "/runstream/a/../../api/1.0/runstream/live"),
        ("GET", "/runstream/a/%2e%2e/live"),
        ("GET", "/runstream//a"),
        ("POST", "/runstream/"),
        ("GET", "/runstreams"),
    ],
)
def test_what_is_not_in_the_table_shows_everything(method: str, path: str) -> None:
    assert find(method, path) == (Need.EVERYTHING, None)
