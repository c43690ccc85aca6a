"""Runstream's own read API: ``POST /api/1.0/runstream/metrics/{query,latest,summary,aggregate}``.

Answers are streams, in the format that ``Accept`` asks for, and memory is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

import msgspec
import pyarrow as pa
from aiohttp import web

from runstream.query.api.bands import aggregate, aggregate_schema, latest
from runstream.query.api.curve_cache import CurveCache
from runstream.query.api.curves import stream_curves
from runstream.query.api.requests import (
    AggregateRequest,
    LatestRequest,
    PointsRequest,
    SummaryRequest,
)
from runstream.query.api.summary import SUMMARY, summarize
from runstream.query.http.decode import decode
from runstream.query.http.formats import negotiate
from runstream.query.http.streaming import send_stream
from runstream.query.http.workers import Workers
from runstream.query.points.newest import NewestCache
from runstream.query.points.selection import Selection
from runstream.query.points.stream import POINTS, stream_points
from runstream.schemas.errors import MlflowError
from runstream.schemas.ports.barrier import Barrier
from runstream.schemas.ports.database import Database, DatabaseError
from runstream.schemas.wire import API, STALE_HEADER

T = TypeVar("T", bound=msgspec.Struct)
Batches = Iterable[pa.RecordBatch]

_TOO_MUCH = "This asks too much at once; name fewer runs or keys, or take steps together"
# The barrier names runs one by one up to here; beyond, it waits for everything.
_MAX_NAMED_RUNS = 1_000


class MetricsRoutes:
    """Handlers of the API. ``max_query_s`` bounds one statement in ClickHouse.

    ``long`` is for what reads every point that is asked for, and for answers whose slow readers keep their threads;
    ``short`` for others: curves of a page, newest points.
    """

    def __init__(
        self,
        database: Database,
        *,
        short: Workers,
        long: Workers,
        barrier: Barrier,
        barrier_timeout_s: float,
        max_query_s: float,
    ) -> None:
        self._database = database
        self._short = short
        self._long = long
        self._barrier = barrier
        self._barrier_timeout_s = barrier_timeout_s
        self._settings = {"max_execution_time": max_query_s}
        self._curves = CurveCache(database)
        self._newest = NewestCache(database)

    def add_to(self, app: web.Application) -> None:
        """Mount the routes."""
        app.router.add_post(f"{API}/metrics/query", self.points)
        app.router.add_post(f"{API}/metrics/latest", self.latest)
        app.router.add_post(f"{API}/metrics/summary", self.summary)
        app.router.add_post(f"{API}/metrics/aggregate", self.aggregate)

    async def points(self, request: web.Request) -> web.StreamResponse:
        """Points of many series: run_id, key, step, timestamp, value."""
        wanted = await decode(request, PointsRequest)
        selection = wanted.selection()
        max_points = wanted.max_points

        def read() -> Batches:
            if max_points is None:
                return stream_points(self._database, selection, self._settings)
            return stream_curves(
                self._database, selection, self._settings, max_points, wanted.method, self._curves
            )

        return await self._answer(
            request, selection, wanted.compression, POINTS, read, long=max_points is None
        )

    async def latest(self, request: web.Request) -> web.StreamResponse:
        """The newest point of each series."""
        wanted = await decode(request, LatestRequest)
        selection = wanted.selection()

        def read() -> Batches:
            return latest(self._database, selection, self._settings, self._newest)

        return await self._answer(request, selection, wanted.compression, POINTS, read)

    async def summary(self, request: web.Request) -> web.StreamResponse:
        """One line about each series."""
        wanted = await decode(request, SummaryRequest)
        selection = wanted.selection()

        def read() -> Batches:
            return summarize(stream_points(self._database, selection, self._settings))

        return await self._answer(request, selection, wanted.compression, SUMMARY, read, long=True)

    async def aggregate(self, request: web.Request) -> web.StreamResponse:
        """Statistics over runs, per key and step."""
        wanted = await decode(request, AggregateRequest)
        selection = wanted.selection()
        stats = list(dict.fromkeys(wanted.stats))

        def read() -> Batches:
            return aggregate(self._database, selection, self._settings, stats, wanted.every)

        return await self._answer(
            request, selection, wanted.compression, aggregate_schema(stats), read, long=True
        )

    async def _answer(
        self,
        request: web.Request,
        selection: Selection,
        compression: str,
        schema: pa.Schema,
        read: Callable[[], Batches],
        *,
        long: bool = False,
    ) -> web.StreamResponse:
        chosen = negotiate(request.headers.get("Accept"))
        headers = chosen.headers
        runs = selection.runs if len(selection.runs) <= _MAX_NAMED_RUNS else None
        if not await self._barrier.wait(runs, self._barrier_timeout_s, newest=False):
            headers[STALE_HEADER] = "true"

        def produce() -> Generator[bytes]:
            return chosen.write(schema, read(), compression)

        workers = self._long if long else self._short
        try:
            return await send_stream(request, workers, produce, headers=headers)
        except DatabaseError as error:
            if error.asks_too_much:
                raise MlflowError(f"{_TOO_MUCH}: {str(error)[:300]}") from error
            raise
