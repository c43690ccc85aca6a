"""What is passed on to a server that is not there yet waits for it, searches and uploads too."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web

from runstream.ingest.control.processes.pool import SearchUnavailableError
from runstream.ingest.gateway.control.onward import Onward
from runstream.ingest.gateway.control.searches import SearchRoutes
from runstream.ingest.gateway.http.handling import Routes
from runstream.ingest.gateway.http.holding import Holding
from runstream.ingest.gateway.http.refusals import refusal
from runstream.ingest.gateway.http.upstream import Upstream
from runstream.schemas.errors import RunstreamError

UPLOAD = "/api/2.0/mlflow-artifacts/artifacts/0/r/artifacts/f"


@dataclass
class Setup:
    """``tracking`` is away until ``come_back``."""

    tracking: Upstream
    holding: Holding
    runners: list[web.AppRunner]
    reserved: socket.socket
    relay_port: int = 0
    seen: list[tuple[str, str, int]] = field(default_factory=list)

    async def come_back(self) -> None:
        async def take(request: web.Request) -> web.Response:
            body = await request.read()
            self.seen.append((request.method, request.path, len(body)))
            return web.json_response({"runs": []})

        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{tail:.*}", take)
        runner = web.AppRunner(app)
        await runner.setup()
        self.runners.append(runner)
        self.reserved.listen()
        await web.SockSite(runner, self.reserved).start()

    async def held(self, count: int) -> None:
        async with asyncio.timeout(30):
            while self.holding.requests < count:
                await asyncio.sleep(0.001)


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    # Bound, and not listening: connections are refused, and the port is nobody else's.
    reserved = socket.socket()
    reserved.bind(("127.0.0.1", 0))
    reserved.setblocking(False)
    holding = Holding(max_s=60, max_requests=100, max_bytes=1 << 20)
    address = f"http://127.0.0.1:{reserved.getsockname()[1]}"
    here = Setup(Upstream("tracking", address, timeout_s=10, holding=holding), holding, [], reserved)

    async def relay(request: web.Request) -> web.StreamResponse:
        try:
            return await here.tracking.relay(request)
        except RunstreamError as error:
            return refusal(error, 5)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", relay)
    runner = web.AppRunner(app)
    await runner.setup()
    here.runners.append(runner)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    here.relay_port = runner.addresses[0][1]
    yield here
    await here.tracking.close()
    for runner in here.runners:
        await runner.cleanup()
    reserved.close()


class _AwayDatabase:
    """The gateway's own searches, and what it knows of callers, while the database is away."""

    @property
    def rights(self) -> _AwayDatabase:
        return self

    def epoch(self) -> int:
        return 0

    def judged(self, identity: object) -> None:
        return None

    def store(self, identity: object) -> _AwayDatabase:
        return self

    async def answer(self, route: str, body: bytes) -> bytes | None:
        raise SearchUnavailableError("the metadata database does not answer in time")


class _Counts:
    def request(self, route: str) -> None:
        pass

    def refused(self, reason: str) -> None:
        pass


async def test_searches_wait_for_the_server_behind(setup: Setup) -> None:
    async def fresh(_: list[str] | None) -> bool:
        return True

    away = _AwayDatabase()
    routes = Routes(_Counts(), max_body_bytes=1000, retry_after_s=1)
    SearchRoutes(away, away, Onward(setup.tracking), fresh).add_to(routes, "")  # type: ignore[arg-type]
    calls = [
        asyncio.create_task(
            routes.answer(
                routes.by_address["POST", f"/api/2.0/mlflow/{path}"],
                {"content-type": "application/json"},
                (),
                "",
                b'{"max_results": 1}',
            )
        )
        for path in ("runs/search", "experiments/search")
    ]
    await setup.held(2)
    await setup.come_back()
    async with asyncio.timeout(30):
        assert [(await call).status for call in calls] == [200, 200]
    assert setup.holding.requests == 0


@pytest.mark.parametrize("size", [1_000, 3 << 20], ids=["small", "streamed"])
async def test_uploads_wait_for_the_server_behind(setup: Setup, size: int) -> None:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{setup.relay_port}") as session:
        async with asyncio.timeout(60):
            call = asyncio.create_task(session.put(UPLOAD, data=io.BytesIO(b"x" * size)))
            await setup.held(1)
            await setup.come_back()
            assert (await call).status == 200
    assert setup.seen == [("PUT", UPLOAD, size)]
