"""What a relay passes on of a request's headers, seen by a real server behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from runstream.ingest.gateway.http.upstream import Upstream
from runstream.schemas.wire import TOKEN_HEADER

SECRET = "secret of the roles"


@pytest.fixture
async def gateway() -> AsyncIterator[tuple[str, int]]:
    """A relay before a server that says which headers it got."""

    async def say(request: web.Request) -> web.Response:
        return web.json_response([[name.lower(), value] for name, value in request.headers.items()])

    async def relay(request: web.Request) -> web.StreamResponse:
        return await upstream.relay(request)

    runners = []
    for handler in (say, relay):
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
    behind = runners[0].addresses[0][1]
    upstream = Upstream("behind", f"http://127.0.0.1:{behind}", timeout_s=10, token=SECRET)
    yield "127.0.0.1", runners[1].addresses[0][1]
    await upstream.close()
    for runner in reversed(runners):
        await runner.cleanup()


async def seen(address: tuple[str, int], *lines: str) -> dict[str, list[str]]:
    reader, writer = await asyncio.open_connection(*address)
    head = "\r\n".join(("GET / HTTP/1.1", *lines, "", ""))
    writer.write(head.encode("latin-1"))
    async with asyncio.timeout(30):
        answer = b""
        while not answer.endswith(b"]]"):
            block = await reader.read(65536)
            assert block, answer
            answer += block
    writer.close()
    names: dict[str, list[str]] = {}
    for name, value in json.loads(answer[answer.index(b"[[") :]):
        names.setdefault(name, []).append(value)
    return names


async def test_connection_cannot_take_away_what_says_who_asks_for_what(gateway: tuple[str, int]) -> None:
    got = await seen(
        gateway,
        "Host: my.host",
        "Authorization: Basic x",
        "X-MLFLOW-WORKSPACE: mine",
        "Range: bytes=0-1",
        "X-Hop: 1",
        "Connection: Host, authorization , X-MLFLOW-WORKSPACE,Range",
        "Connection: x-hop, keep-alive",
    )
    assert got["host"] == ["my.host"]
    assert got["authorization"] == ["Basic x"]
    assert got["x-mlflow-workspace"] == ["mine"]
    assert got["range"] == ["bytes=0-1"]
    assert "x-hop" not in got


@pytest.mark.parametrize("sent", ["guess", SECRET, "\xff"])
async def test_the_secret_of_the_roles_is_the_gateways_own(gateway: tuple[str, int], sent: str) -> None:
    got = await seen(gateway, "Host: x", f"{TOKEN_HEADER}: {sent}", f"{TOKEN_HEADER}: {sent}")
    assert got[TOKEN_HEADER.lower()] == [SECRET]
