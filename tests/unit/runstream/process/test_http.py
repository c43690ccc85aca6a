"""The server's own errors: a caller who goes in the middle of a request is no line in the log."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from aiohttp import web

from runstream.process.http import serve


async def test_who_leaves_before_the_body_has_come_is_no_error_of_the_servers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reading, left = asyncio.Event(), asyncio.Event()

    async def read(request: web.Request) -> web.Response:
        reading.set()
        try:
            return web.Response(body=await request.read())
        finally:
            left.set()

    app = web.Application()
    app.router.add_post("/", read)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(app, listener, stop, drain_s=10))
    async with asyncio.timeout(60):
        for framing in ("Content-Length: 9\r\n\r\n1", "Transfer-Encoding: chunked\r\n\r\n9\r\n1"):
            reading.clear()
            left.clear()
            _, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(f"POST / HTTP/1.1\r\nHost: localhost\r\n{framing}".encode())
            await reading.wait()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            await left.wait()
        stop.set()
        await serving
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
