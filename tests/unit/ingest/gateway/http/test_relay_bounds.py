"""Relays are bounded on both sides, and cannot take the connections that the gateway's own questions need."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web

from runstream.ingest.gateway.http import upstream as module
from runstream.ingest.gateway.http.refusals import refusal
from runstream.ingest.gateway.http.upstream import Upstream, UpstreamUnavailableError
from runstream.schemas.errors import RunstreamError

BLOCK = b"x" * (1 << 20)
UPLOAD = "/api/2.0/mlflow-artifacts/artifacts/0/r/artifacts/f"


@dataclass
class Behind:
    """A server that hangs, streams for ever, falls silent or breaks off; ``under_way`` counts its requests."""

    under_way: int = 0
    seen: list[str] = field(default_factory=list)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request.path)
        self.under_way += 1
        try:
            return await self._answer(request)
        finally:
            self.under_way -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        match request.path.rpartition("/")[2]:
            case "hang":
                await self.go_on.wait()
            case "flood" | "silent" as kind:
                response = web.StreamResponse()
                await response.prepare(request)
                await response.write(BLOCK)
                while kind == "flood":
                    await response.write(BLOCK)
                await self.go_on.wait()
            case "f" | "create":
                await request.content.readany()
                assert request.transport is not None
                request.transport.abort()
            case _:
                await request.read()
        return web.Response(text="answered")


@dataclass
class Setup:
    behind: Behind
    upstream: Upstream
    port: int
    errors: list[RunstreamError] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    runners: list[web.AppRunner] = []

    async def start(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> int:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{tail:.*}", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
        port: int = runner.addresses[0][1]
        return port

    async def relay(request: web.Request) -> web.StreamResponse:
        try:
            return await here.upstream.relay(request)
        except RunstreamError as error:
            here.errors.append(error)
            return refusal(error, 5)

    behind = Behind()
    port = await start(behind.handle)
    bounded = Upstream(
        "behind", f"http://127.0.0.1:{port}", timeout_s=20, max_connections=2, connect_s=0.5, stall_s=0.5
    )
    here = Setup(behind, bounded, 0)
    here.port = await start(relay)
    yield here
    behind.go_on.set()
    await here.upstream.close()
    for runner in reversed(runners):
        await runner.cleanup()


@contextlib.asynccontextmanager
async def connected(setup: Setup) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    # Of what nobody reads, the stream's own buffer takes little.
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port, limit=1024)
    try:
        yield reader, writer
    finally:
        writer.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.01)


async def test_a_caller_that_does_not_read_is_broken_off(setup: Setup) -> None:
    async with connected(setup) as (_, writer):
        writer.write(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: setup.behind.under_way == 1)
        await until(lambda: setup.behind.under_way == 0)


async def test_a_caller_whose_body_stops_is_told_so(setup: Setup) -> None:
    # Of the second one the server behind has had a part.
    for body, status in (
        (b"Content-Length: 9\r\n\r\n1", 408),
        (b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", 503),
    ):
        async with connected(setup) as (reader, writer):
            writer.write(b"POST /read HTTP/1.1\r\nHost: localhost\r\n" + body)
            async with asyncio.timeout(30):
                assert int((await reader.readline()).split()[1]) == status
    await until(lambda: setup.behind.under_way == 0)


async def test_a_server_that_falls_silent_is_broken_off(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SILENT_ANSWER_S", 0.3)
    async with aiohttp.ClientSession() as session, asyncio.timeout(30):
        with pytest.raises(aiohttp.ClientError):
            async with session.get(f"{setup.url}/silent") as answer:
                await answer.read()


async def test_relays_have_connections_of_their_own(setup: Setup) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        stuck = [asyncio.create_task(session.get(f"{setup.url}/hang")) for _ in range(2)]
        await until(lambda: setup.behind.under_way == 2)
        # One more relay waits for a connection, and no longer than it may. Nothing of it was begun.
        async with session.get(f"{setup.url}/more") as answer:
            assert (answer.status, int(answer.headers["Retry-After"]) >= 5) == (429, True)
        # The gateway's own questions do not wait for it, nor does what creates something.
        assert (await setup.upstream.get("/question")).body == b"answered"
        async with session.post(f"{setup.url}/creating", data=b"x") as answer:
            assert answer.status == 200
        assert "/more" not in setup.behind.seen
        setup.behind.go_on.set()
        for task in stuck:
            (await task).release()


async def test_what_broke_off_is_sent_again_by_its_sender_only_where_that_changes_nothing(
    setup: Setup,
) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield BLOCK

    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        async with session.put(f"{setup.url}{UPLOAD}", data=body()) as answer:
            assert (answer.status, "Retry-After" in answer.headers) == (429, True)
        async with session.post(f"{setup.url}/api/2.0/mlflow/runs/create", data=body()) as answer:
            assert (answer.status, "Retry-After" in answer.headers) == (503, True)
    assert [(isinstance(error, UpstreamUnavailableError), error.nothing_done) for error in setup.errors] == [
        (True, True),
        (True, False),
    ]
