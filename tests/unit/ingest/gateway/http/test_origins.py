"""Pages of other origins, by MLflow's rule and in its words."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from runstream.ingest.gateway.http.origins import Origins

APP = "http://app.example"


def request(origin: str | None, method: str = "GET", **headers: str) -> web.Request:
    named = {"Host": "server:5000", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if origin is not None:
        named["Origin"] = origin
    return make_mocked_request(method, "/", headers=named)


@pytest.mark.parametrize(
    ("allowed", "origin", "lets_in", "told"),
    [
        (None, None, True, None),
        (None, "http://server:5000", True, None),
        (None, "https://server:5000", True, None),
        (None, "http://localhost:3000", True, "http://localhost:3000"),
        (None, "http://[::1]", True, "http://[::1]"),
        (None, "http://localhost.evil.example", False, None),
        (None, APP, False, None),
        (None, "null", False, None),
        (None, "http://[bad", False, None),
        (f"{APP}, http://b", APP, True, APP),
        (APP, "http://b", False, None),
        ("http://*.example", APP, True, None),
        ("*", APP, True, "*"),
    ],
)
def test_who_is_let_in_and_told_so(
    allowed: str | None, origin: str | None, lets_in: bool, told: str | None
) -> None:
    origins = Origins(allowed)
    assert origins.lets_in(request(origin)) is lets_in
    assert origins.headers(request(origin)).get("Access-Control-Allow-Origin") == told


def test_preflights_are_answered_as_mlflow_does() -> None:
    asks = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "content-type"}
    answer = Origins(APP).preflight(request(APP, "OPTIONS", **asks))
    assert answer is not None
    assert (answer.status, answer.text) == (200, "OK")
    assert answer.headers["Access-Control-Allow-Origin"] == APP
    assert answer.headers["Access-Control-Allow-Headers"] == "content-type"
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    refused = Origins(APP).preflight(request("http://b", "OPTIONS", **asks))
    assert refused is not None
    assert refused.status == 400
    assert "Access-Control-Allow-Origin" not in refused.headers
    everybody = Origins("*").preflight(request("http://b", "OPTIONS", **asks))
    assert everybody is not None
    assert everybody.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in everybody.headers
    assert Origins(APP).preflight(request(APP, "OPTIONS")) is None
    assert Origins(APP).preflight(request(None, "OPTIONS", **asks)) is None
    assert Origins(APP).preflight(request(APP, "POST", **asks)) is None
