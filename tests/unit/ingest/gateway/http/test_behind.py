"""aiohttp's own attributes, which the door looks at: what they say while requests come and go."""

from __future__ import annotations

import asyncio

from aiohttp import web

from runstream.ingest.gateway.http import behind
from runstream.ingest.gateway.http.mount import normalise


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
