"""The query service answers nobody but Runstream's own roles, on every route that it has."""

from __future__ import annotations

from typing import Any, cast

import pytest
import requests

from runstream.process.probes import add_watch_routes
from runstream.query.service import QueryConfig, create_app
from runstream.schemas.wire import TOKEN_HEADER
from support.query_server import TOKEN, serving

PROBES = {"/health", "/ready", "/metrics"}


def app(token: str = TOKEN):  # type: ignore[no-untyped-def]
    made = create_app(cast(Any, None), cast(Any, None), QueryConfig(internal_token=token, static_prefix="/p"))
    # What it does in the background needs a database.
    made.cleanup_ctx.clear()
    add_watch_routes(made, lambda: b"", {})
    return made


def routes() -> list[tuple[str, str]]:
    return [
        (route.method, route.resource.canonical)
        for route in app().router.routes()
        if route.resource is not None and route.resource.canonical not in PROBES
    ]


def test_it_has_routes() -> None:
    assert ("POST", "/api/1.0/runstream/sql") in routes()
    assert ("GET", "/p/api/2.0/mlflow/metrics/get-history") in routes()


@pytest.mark.parametrize("given", [None, "", "guess", TOKEN[:-1], "\xff"])
def test_every_route_refuses_a_stranger(given: str | None) -> None:
    headers = {} if given is None else {TOKEN_HEADER: given.encode("latin-1")}
    with serving(app) as url:
        for method, path in [*routes(), ("GET", "/nowhere"), ("GET", "//health")]:
            answer = requests.request(method, url + path, headers=headers, timeout=30)
            assert answer.status_code == 403, (method, path)
            if method != "HEAD":
                assert answer.json()["error_code"] == "PERMISSION_DENIED"
        for path in PROBES:
            assert requests.get(url + path, timeout=30).status_code == 200


def test_a_role_is_let_in_and_no_secret_lets_nobody_in() -> None:
    with serving(app) as url:
        answer = requests.get(
            f"{url}/api/1.0/runstream/openapi.json", headers={TOKEN_HEADER: TOKEN}, timeout=30
        )
        assert answer.status_code == 200
    with serving(lambda: app(token="")) as url:
        answer = requests.get(f"{url}/api/1.0/runstream/openapi.json", headers={TOKEN_HEADER: ""}, timeout=30)
        assert answer.status_code == 403
