"""The same connection for asyncio: every call awaits instead of blocking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Literal, ParamSpec, TypeVar

import httpx
import pandas as pd

from runstream.query.client.connection import Connection, Keys, Range, listed
from runstream.query.client.frames import As
from runstream.query.client.live import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    SILENCE_S,
    Follower,
    Point,
    check,
    rows_of,
)
from runstream.query.client.run import Run
from runstream.query.client.tables import TableAs, View
from runstream.schemas.backoff import Backoff

P = ParamSpec("P")
T = TypeVar("T")


class AsyncRun:
    """``Run`` with awaitable methods of the same names and results; its attributes are the same."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.run_id = run.run_id
        self.id = run.id
        self.name = run.name
        self.experiment_id = run.experiment_id
        self.status = run.status
        self.params = run.params
        self.tags = run.tags
        self.metrics = run.metrics

    async def get_metrics(self, name: str | None = None) -> dict[str, Any]:
        """See ``Run.get_metrics``."""
        return await _in_thread(self._run.get_metrics, name)

    async def get_details(self) -> dict[str, Any]:
        """See ``Run.get_details``."""
        return await _in_thread(self._run.get_details)

    async def get_portal_url(self) -> str:
        """See ``Run.get_portal_url``."""
        return await _in_thread(self._run.get_portal_url)

    async def get_status(self) -> str:
        """See ``Run.get_status``."""
        return await _in_thread(self._run.get_status)

    def __repr__(self) -> str:
        return f"Async{self._run!r}"


class AsyncConnection:
    """``Connection`` with awaitable methods of the same names, arguments and results.

    Reading and decoding happen in threads, so that a large result does not hold up the loop.
    """

    def __init__(self, uri: str | None = None, *, timeout_s: float = 600.0) -> None:
        self._connection = Connection(uri, timeout_s=timeout_s)

    @property
    def uri(self) -> str:
        """The server's address."""
        return self._connection.uri

    async def get_metrics(
        self,
        runs: Any = None,
        keys: Keys = None,
        *,
        experiment: Any = None,
        filter: str | None = None,
        steps: Range = None,
        time: Range = None,
        max_points: int | None = None,
        method: Literal["lttb", "minmax"] = "lttb",
        as_: As = "pandas",
        progress: bool | None = None,
    ) -> Any:
        """See ``Connection.get_metrics``."""
        return await _in_thread(
            self._connection.get_metrics,
            runs,
            keys,
            experiment=experiment,
            filter=filter,
            steps=steps,
            time=time,
            max_points=max_points,
            method=method,
            as_=as_,
            progress=progress,
        )

    async def latest_metrics(
        self,
        runs: Any = None,
        keys: Keys = None,
        *,
        experiment: Any = None,
        filter: str | None = None,
        as_: As = "pandas",
    ) -> Any:
        """See ``Connection.latest_metrics``."""
        return await _in_thread(
            self._connection.latest_metrics, runs, keys, experiment=experiment, filter=filter, as_=as_
        )

    async def summary(
        self,
        runs: Any = None,
        keys: Keys = None,
        *,
        experiment: Any = None,
        filter: str | None = None,
        steps: Range = None,
        time: Range = None,
    ) -> pd.DataFrame:
        """See ``Connection.summary``."""
        return await _in_thread(
            self._connection.summary,
            runs,
            keys,
            experiment=experiment,
            filter=filter,
            steps=steps,
            time=time,
        )

    async def aggregate(
        self,
        runs: Any = None,
        keys: Keys = None,
        *,
        over: Literal["runs"] = "runs",
        stats: Sequence[str] = ("mean", "std", "min", "max", "p10", "p90"),
        every: int = 1,
        experiment: Any = None,
        filter: str | None = None,
        steps: Range = None,
        time: Range = None,
    ) -> pd.DataFrame:
        """See ``Connection.aggregate``."""
        return await _in_thread(
            self._connection.aggregate,
            runs,
            keys,
            over=over,
            stats=stats,
            every=every,
            experiment=experiment,
            filter=filter,
            steps=steps,
            time=time,
        )

    async def runs(
        self,
        experiments: Any,
        *,
        filter: str | None = None,
        columns: str | Sequence[str] | None = None,
        order_by: str | Sequence[str] | None = None,
        max_results: int | None = None,
        run_view_type: View = "ACTIVE_ONLY",
        as_: TableAs = "pandas",
    ) -> Any:
        """See ``Connection.runs``."""
        return await _in_thread(
            self._connection.runs,
            experiments,
            filter=filter,
            columns=columns,
            order_by=order_by,
            max_results=max_results,
            run_view_type=run_view_type,
            as_=as_,
        )

    async def sql(self, query: str, *, as_: As = "pandas", **parameters: Any) -> Any:
        """See ``Connection.sql``."""
        return await _in_thread(self._connection.sql, query, as_=as_, **parameters)

    async def get_run(self, run_id: Any) -> AsyncRun:
        """See ``Connection.get_run``."""
        return AsyncRun(await _in_thread(self._connection.get_run, run_id))

    async def get_details(self) -> dict[str, Any]:
        """See ``Connection.get_details``."""
        return await _in_thread(self._connection.get_details)

    async def get_portal_url(self, run: Any) -> str:
        """See ``Connection.get_portal_url``."""
        known = run._run if isinstance(run, AsyncRun) else run
        return await _in_thread(self._connection.get_portal_url, known)

    async def tail(
        self, runs: Any = None, keys: Any = None, *, experiment: Any = None, filter: str | None = None
    ) -> AsyncIterator[Point]:
        """See ``Connection.tail``."""
        wanted = await _in_thread(self._connection.wanted_runs, runs, experiment, filter)
        follower = Follower(wanted, listed(keys))
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        async with httpx.AsyncClient(**self._connection.client_options()) as client:
            while True:
                try:
                    async with client.stream(
                        "POST", timeout=httpx.Timeout(SILENCE_S), **follower.request()
                    ) as response:
                        if response.status_code != 200:
                            await response.aread()
                            check(response)
                        else:
                            async for line in response.aiter_lines():
                                backoff.reset()
                                for point in follower.line(line):
                                    yield point
                                if follower.gap_since_ms is not None:
                                    table = await _in_thread(self._connection.fetch, follower.gap_request())
                                    for point in follower.new(rows_of(table)):
                                        yield point
                except httpx.TransportError:
                    pass
                await asyncio.sleep(backoff.next_s())

    async def close(self) -> None:
        """Close every connection to the server."""
        self._connection.close()

    async def __aenter__(self) -> AsyncConnection:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def connect_async(uri: str | None = None, *, timeout_s: float = 600.0) -> AsyncConnection:
    """``connect`` for asyncio."""
    return AsyncConnection(uri, timeout_s=timeout_s)


async def _in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await asyncio.to_thread(call, *args, **kwargs)
