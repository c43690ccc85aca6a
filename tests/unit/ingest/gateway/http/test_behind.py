"""aiohttp's own attributes, which the door looks at: what they say while requests come and go."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from runstream.ingest.gateway.http import behind
from runstream.ingest.gateway.http.mount import normalise
from runstream.schemas.errors import MlflowError


async def test_a_handler_is_idle_but_for_its_requests_and_awaits_their_bodies() -> None:
    reading, may_answer = asyncio.Event(), asyncio.Event()
    paths: list[tuple[str, str]] = []

    async def handle(request: web.Request) -> web.Response:
        paths.append((request.path, request.raw_path))
        reading.set()
        await request.read()
        await may_answer.wait()
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/a/{tail:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    server = runner.server
    assert server is not None
    normalise(server)
    handlers = []

    def make() -> asyncio.Protocol:
        handlers.append(server())
        return handlers[-1]

    listening = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
    async with asyncio.timeout(10):
        writer.write(b"PUT //%61/%20b HTTP/1.1\r\nHost: a\r\nContent-Le")
        await writer.drain()
        while not handlers:
            await asyncio.sleep(0.001)
        (handler,) = handlers
        assert behind.is_idle(handler)
        assert not behind.awaits_body(handler)
        writer.write(b"ngth: 3\r\n\r\nab")
        await reading.wait()
        assert not behind.is_idle(handler)
        assert behind.awaits_body(handler)
        writer.write(b"c")
        while behind.awaits_body(handler):
            await asyncio.sleep(0.001)
        assert not behind.is_idle(handler)
        may_answer.set()
        assert b" 200 " in await reader.readline()
        while not behind.is_idle(handler):
            await asyncio.sleep(0.001)
        assert paths == [("/a/ b", "/a/%20b")]
        writer.close()
    listening.close()
    await runner.cleanup()


@pytest.mark.parametrize("begun", [True, False])
async def test_a_body_that_is_none_is_never_taken_for_whole(begun: bool) -> None:
    """Nor waited for: ``lingering_time`` is the hour that aiohttp would read on for, to throw away what comes."""
    reading = asyncio.Event()
    seen: list[bytes | Exception] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        if not begun:
            await reading.wait()
        assert request.can_read_body
        reading.set()
        try:
            seen.append(await request.read())
        except MlflowError as error:
            seen.append(error)
        return web.Response(status=400)

    server = web.Server(handle, lingering_time=3600.0)
    handlers = []

    def make() -> asyncio.Protocol:
        handlers.append(server())
        return handlers[-1]

    listening = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
    async with asyncio.timeout(30):
        writer.write(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not handlers or behind.is_idle(handlers[0]):
            await asyncio.sleep(0.001)
        if begun:
            await reading.wait()
        handlers[0].data_received(b"zz\r\n")
        behind.end_broken_body(handlers[0])
        reading.set()
        # One answer, and the end.
        assert (await reader.read()).count(b"HTTP/1.1 400") == 1
        assert [str(one) for one in seen] == ["Bad request: Invalid character in chunk size"]
        writer.close()
    listening.close()
    await server.shutdown()
