"""A listener whose connection takes nothing gives its place back."""

from __future__ import annotations

import asyncio
import socket

import numpy as np
from aiohttp import web

from runstream.query.live.hub import Hub
from runstream.query.live.routes import LiveRoutes
from runstream.schemas.record import PointColumns
from runstream.schemas.wire import API

RUN = "0" * 32
POINTS = 20_000


def points() -> PointColumns:
    steps = np.arange(POINTS, dtype=np.int64)
    codes = np.zeros(POINTS, np.uint32)
    return PointColumns([RUN], ["k"], codes, codes, steps, steps, np.random.default_rng(1).random(POINTS), 0)


async def test_a_listener_that_reads_nothing_is_cut_off_and_others_are_not() -> None:
    hub = Hub(max_unread_points=1 << 30)
    app = web.Application()
    LiveRoutes(hub, stall_s=0.5).add_to(app)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = runner.addresses[0][:2]
    head = f"GET {API}/runs/{RUN}/metrics/live HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with socket.create_connection(address) as silent:
        silent.sendall(head)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(head)
        async with asyncio.timeout(60):
            while hub.listeners < 2:
                await asyncio.sleep(0.01)
            hub.watching([RUN])
            while hub.listeners == 2:
                hub.publish(points())
                await reader.read(1 << 20)
            assert hub.listeners == 1
            hub.publish(points())
            assert await reader.read(1)
        writer.close()
    await runner.cleanup()
