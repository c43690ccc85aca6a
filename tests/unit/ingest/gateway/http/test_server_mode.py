"""How the MLflow server decides about callers is learnt from a real HTTP server, and never assumed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from aiohttp import web

from runstream.ingest.gateway.http.server_mode import ModeWatch, ServerMode
from runstream.ingest.gateway.http.upstream import Upstream


@dataclass
class Tracking:
    """An MLflow server that says this of itself, and answers strangers so."""

    info: object
    info_status: int = 200
    strangers: int = 200
    asked: int = 0

    async def say(self, request: web.Request) -> web.Response:
        assert "Authorization" not in request.headers
        self.asked += 1
        return web.json_response(self.info, status=self.info_status)

    async def search(self, request: web.Request) -> web.Response:
        assert "Authorization" not in request.headers
        return web.json_response({}, status=self.strangers)


@pytest.fixture
async def tracking() -> AsyncIterator[tuple[Tracking, Upstream]]:
    server = Tracking({"workspaces_enabled": False})
    app = web.Application()
    app.router.add_get("/api/3.0/mlflow/server-info", server.say)
    app.router.add_get("/api/2.0/mlflow/experiments/search", server.search)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    upstream = Upstream("tracking", f"http://{host}:{port}", timeout_s=5)
    yield server, upstream
    await upstream.close()
    await runner.cleanup()


@pytest.mark.parametrize(
    ("info", "info_status", "strangers", "basic_auth", "mode"),
    [
        ({"workspaces_enabled": False}, 200, 200, False, ServerMode.OPEN),
        ({}, 200, 200, False, ServerMode.OPEN),
        ({"workspaces_enabled": True}, 200, 200, False, ServerMode.WORKSPACES),
        ({"workspaces_enabled": True}, 200, 401, True, ServerMode.WORKSPACES),
        ({"workspaces_enabled": False}, 200, 200, True, ServerMode.BASIC_AUTH),
        # An app that nobody has told us of.
        ({"workspaces_enabled": False}, 200, 401, False, ServerMode.USERS),
        ({"workspaces_enabled": False}, 200, 302, False, ServerMode.USERS),
        ({"workspaces_enabled": False}, 401, 200, False, ServerMode.USERS),
        # What says nothing is not taken for a yes.
        ({"workspaces_enabled": False}, 200, 503, False, ServerMode.UNKNOWN),
        ({}, 500, 200, False, ServerMode.UNKNOWN),
    ],
)
async def test_what_is_said_and_what_is_seen(
    tracking: tuple[Tracking, Upstream],
    info: object,
    info_status: int,
    strangers: int,
    basic_auth: bool,
    mode: ServerMode,
) -> None:
    server, upstream = tracking
    server.info, server.info_status, server.strangers = info, info_status, strangers
    assert await ModeWatch(upstream.get, basic_auth=basic_auth).settled() is mode


async def test_the_last_mode_holds_while_the_server_is_away_and_another_is_noticed(
    tracking: tuple[Tracking, Upstream],
) -> None:
    server, upstream = tracking
    watch = ModeWatch(upstream.get, basic_auth=False, interval_s=0.01)
    assert watch.mode.name == "UNKNOWN"
    watching = asyncio.create_task(watch.watch())
    async with asyncio.timeout(30):
        while watch.mode.name != "OPEN":
            await asyncio.sleep(0.01)
        server.info_status = 503
        asked = server.asked
        while server.asked < asked + 2:
            await asyncio.sleep(0.01)
        assert watch.mode.name == "OPEN"
        server.info, server.info_status = {"workspaces_enabled": True}, 200
        while watch.mode.name != "WORKSPACES":
            await asyncio.sleep(0.01)
    watching.cancel()
