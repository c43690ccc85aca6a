"""``/ready`` says which part is away, also while a part hangs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from runstream.ingest.gateway.http.probes import Readiness
from runstream.ingest.gateway.http.upstream import Upstream
from runstream.schemas.errors import QueueUnavailableError


async def works() -> None:
    return


async def refuses() -> None:
    raise QueueUnavailableError("the disk is full")


async def hangs() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("check_queue", "hanging", "away"),
    [
        (works, (), []),
        (refuses, (), ["queue"]),
        (hangs, (), ["queue"]),
        (works, ("tracking",), ["tracking"]),
        (works, ("query",), ["query"]),
        (hangs, ("tracking", "query"), ["tracking", "query", "queue"]),
    ],
)
async def test_who_is_away(
    check_queue: Callable[[], Awaitable[None]], hanging: tuple[str, ...], away: list[str]
) -> None:
    async def health(_: web.Request) -> web.Response:
        return web.Response(text="OK")

    app = web.Application()
    app.router.add_get("/health", health)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    # As a stopped process: the kernel takes connections, and nobody answers.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ports = {True: silent.getsockname()[1], False: runner.addresses[0][1]}
        tracking, query = (
            Upstream(name, f"http://127.0.0.1:{ports[name in hanging]}", timeout_s=60)
            for name in ("tracking", "query")
        )
        # Far less than the time-out of the servers; two seconds on a quiet machine.
        async with asyncio.timeout(20):
            assert await Readiness(tracking, query, check_queue).away() == away
        await tracking.close()
        await query.close()
    await runner.cleanup()
