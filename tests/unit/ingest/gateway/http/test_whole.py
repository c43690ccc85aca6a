"""Bodies that handlers of aiohttp read whole: one bound over all of them, whatever they came as."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from runstream.ingest.gateway.http.arriving import Arriving
from runstream.ingest.gateway.http.hosts import HostRules
from runstream.ingest.gateway.http.mount import normalise, refusing_odd
from runstream.ingest.gateway.http.whole import count_bodies

BOUND = 4 << 20
LARGEST = 3 << 20
HELD = b"x" * (1 << 20)


@dataclass
class Setup:
    port: int
    arriving: Arriving
    read: list[int] = field(default_factory=list)


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    async def count(request: web.Request) -> web.Response:
        body = await request.read()
        assert await request.read() is body
        here.read.append(len(body))
        return web.Response(text=str(len(body)))

    app = web.Application(client_max_size=LARGEST, middlewares=[refusing_odd(HostRules(None), ())])
    app.router.add_route("*", "/{tail:.*}", count)
    runner = web.AppRunner(app)
    await runner.setup()
    assert runner.server is not None
    here = Setup(0, Arriving(BOUND, asyncio.get_running_loop().time))
    count_bodies(runner.server, here.arriving)
    normalise(runner.server)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    here.port = runner.addresses[0][1]
    yield here
    await runner.cleanup()


@contextlib.asynccontextmanager
async def connected(
    setup: Setup, head: str
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    writer.write(f"POST /a HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
    try:
        yield reader, writer
    finally:
        writer.close()


async def until_held(setup: Setup, size: int) -> None:
    async with asyncio.timeout(30):
        while setup.arriving.held_bytes < size:
            await asyncio.sleep(0.001)


async def status_of(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(30):
        status = int((await reader.readline()).split()[1])
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if status >= 400:
            length = int(head.partition("content-length: ")[2].split("\r\n")[0])
            assert "error_code" in json.loads(await reader.readexactly(length))
            assert status == 413 or "retry-after" in head
        return status


CHUNKED = "Transfer-Encoding: chunked"


async def test_unfinished_bodies_end_where_they_would_hold_more_than_the_bound(setup: Setup) -> None:
    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(connected(setup, CHUNKED)) for _ in range(5)]
        for number, (_, writer) in enumerate(callers[:4], 1):
            writer.write(b"%x\r\n%s\r\n" % (len(HELD) - 1, HELD[:-1]))
            await until_held(setup, number * (len(HELD) - 1))
        callers[4][1].write(b"%x\r\n%s\r\n" % (len(HELD), HELD))
        # The one that has cost most is told so, and the others may finish.
        assert await status_of(callers[0][0]) in (408, 429)
        assert setup.arriving.held_bytes <= BOUND
        for reader, writer in callers[1:]:
            writer.write(b"0\r\n\r\n")
            assert await status_of(reader) == 200
    assert setup.arriving.held_bytes == 0
    assert setup.read == [len(HELD) - 1] * 3 + [len(HELD)]


async def test_a_large_body_has_a_place_for_all_of_it_or_none(setup: Setup) -> None:
    large = f"Content-Length: {LARGEST}"
    async with connected(setup, large) as (reader, writer):
        await until_held(setup, LARGEST)
        async with connected(setup, large) as (other, _):
            assert await status_of(other) == 429
        writer.write(b"x" * LARGEST)
        assert await status_of(reader) == 200
    assert (setup.arriving.held_bytes, setup.read) == (0, [LARGEST])


async def test_what_is_larger_than_allowed_is_refused_however_it_is_announced(setup: Setup) -> None:
    async with connected(setup, f"Content-Length: {LARGEST + 1}") as (reader, _):
        assert await status_of(reader) == 413
    async with connected(setup, CHUNKED) as (reader, writer):
        writer.write(b"%x\r\n%s\r\n" % (LARGEST + 1, b"x" * (LARGEST + 1)))
        assert await status_of(reader) == 413
    assert (setup.arriving.held_bytes, setup.read) == (0, [])


async def test_who_leaves_gives_the_place_back(setup: Setup) -> None:
    async with connected(setup, CHUNKED) as (_, writer):
        writer.write(b"%x\r\n%s\r\n" % (len(HELD), HELD))
        await until_held(setup, len(HELD))
    async with asyncio.timeout(30):
        while setup.arriving.held_bytes:
            await asyncio.sleep(0.001)
