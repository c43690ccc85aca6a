"""A query service in this process, on a port of its own, over the shared engine."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from aiohttp import web

from runstream.query.service import QueryConfig, create_app
from runstream.schemas.ports.statements import Statements
from support.clickhouse_engine import shared_database

TOKEN = "token of the tests"


class Fresh:
    """A barrier for tests that write to the table themselves: nothing is ever on its way.

    ``asked`` keeps what was asked for; with ``late`` set the writer never answers in time.
    """

    def __init__(self) -> None:
        self.asked: list[list[str] | None] = []
        self.late = False

    async def wait(self, run_ids: Sequence[str] | None, timeout_s: float, *, newest: bool = True) -> bool:
        self.asked.append(None if run_ids is None else list(run_ids))
        return not self.late


@contextlib.contextmanager
def serving(make_app: Callable[[], web.Application]) -> Iterator[str]:
    """The address of an application that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> tuple[web.AppRunner, str]:
        runner = web.AppRunner(make_app())
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        return runner, f"http://127.0.0.1:{port}"

    runner, url = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    try:
        yield url
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@contextlib.contextmanager
def query_server(
    barrier: Fresh | None = None, config: QueryConfig | None = None, statements: Statements | None = None
) -> Iterator[str]:
    """The address of a query service over the shared engine, which tests may ask like any gateway."""
    config = replace(config or QueryConfig(internal_token=TOKEN), for_roles_only=False)
    with serving(lambda: create_app(shared_database(), barrier or Fresh(), config, None, statements)) as url:
        yield url
