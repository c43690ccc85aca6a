"""Routes for Runstream's own processes: the gateway's barrier, and reads for the MLflow store plugin.

Under ``/api/1.0/runstream/internal/``, POST, guarded by the token that the processes share. Bodies are
JSON; points come back as an Arrow stream (run_id, step, timestamp, value) with what belongs to them in the
schema's metadata.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import pyarrow as pa
from aiohttp import web

from runstream.query.http.errors import Handler, json_answer
from runstream.query.http.roles_only import carries
from runstream.query.http.workers import BusyError, Workers
from runstream.query.mlflow.history import HistoryReader
from runstream.query.points.aggregates import Statistic, What
from runstream.query.points.series import Series
from runstream.schemas.errors import MlflowError
from runstream.schemas.ports.barrier import Barrier
from runstream.schemas.wire import ARROW, INTERNAL, NEXT_PAGE, STALE_HEADER

T = TypeVar("T", bound=msgspec.Struct)

_MAX_TIMEOUT_S = 60.0

_POINTS = pa.schema(
    [("run_id", pa.string()), ("step", pa.int64()), ("timestamp", pa.int64()), ("value", pa.float64())]
)


class BarrierRequest(msgspec.Struct):
    """``POST barrier``; ``run_ids`` ``null`` means any run."""

    run_ids: list[str] | None = None
    timeout_ms: int = 10_000


class HistoryRequest(msgspec.Struct):
    """``POST history``: a page of one series."""

    run_id: str
    key: str
    max_results: int | None = None
    page_token: str | None = None


class BulkRequest(msgspec.Struct):
    """``POST history-bulk``: series of many runs, ``max_results`` points together."""

    run_ids: list[str]
    key: str
    max_results: int


class IntervalRequest(msgspec.Struct):
    """``POST history-interval``: series of many runs, each sampled to ``max_results``."""

    run_ids: list[str]
    key: str
    max_results: int
    start_step: int | None = None
    end_step: int | None = None


class StepsRequest(msgspec.Struct):
    """``POST history-steps``: the points of given steps of one series."""

    run_id: str
    key: str
    steps: list[int]
    max_results: int


class SeriesRequest(msgspec.Struct):
    """``POST max-step``."""

    run_id: str
    key: str


class StatisticRequest(msgspec.Struct):
    """One column of ``POST run-statistics``."""

    key: str
    what: What
    step: int | None = None


class StatisticsRequest(msgspec.Struct):
    """``POST run-statistics``: numbers about series of many runs, each of which is named once."""

    run_ids: list[str]
    columns: list[StatisticRequest]


class RunsRequest(msgspec.Struct):
    """``POST delete-runs``."""

    run_ids: list[str]


class RoleRoutes:
    """Handlers of the internal routes. An empty ``token`` would let anybody in, so it refuses everybody."""

    def __init__(
        self,
        reader: HistoryReader,
        workers: Workers,
        barrier: Barrier,
        *,
        token: str,
        barrier_timeout_s: float,
    ) -> None:
        self._reader = reader
        self._workers = workers
        self._barrier = barrier
        self._token = token
        self._barrier_timeout_s = barrier_timeout_s

    def add_to(self, app: web.Application) -> None:
        """Mount the routes."""
        for name, handler in (
            ("barrier", self.wait),
            ("history", self.history),
            ("history-bulk", self.history_bulk),
            ("history-interval", self.history_interval),
            ("history-steps", self.history_steps),
            ("max-step", self.max_step),
            ("run-statistics", self.run_statistics),
            ("delete-runs", self.delete_runs),
        ):
            app.router.add_post(f"{INTERNAL}/{name}", self._guarded(handler))

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if not carries(request, self._token):
                raise MlflowError("This route is Runstream's own", "PERMISSION_DENIED")
            return await handler(request)

        return guarded

    async def wait(self, request: web.Request) -> web.Response:
        """Wait for the writer; answers ``{"fresh": …}``."""
        wanted = await _decode(request, BarrierRequest)
        timeout_s = min(max(wanted.timeout_ms / 1000, 0.0), _MAX_TIMEOUT_S)
        fresh = await self._barrier.wait(wanted.run_ids, timeout_s)
        return json_answer(msgspec.json.encode({"fresh": fresh}))

    async def history(self, request: web.Request) -> web.Response:
        """A page of one series, in MLflow's order."""
        wanted = await _decode(request, HistoryRequest)
        fresh = await self._fresh([wanted.run_id])

        def read() -> bytes:
            page = self._reader.history(wanted.run_id, wanted.key, wanted.max_results, wanted.page_token)
            return _arrow([(wanted.run_id, page.series)], page.next_page_token)

        return _points_answer(await self._workers.run(read), fresh)

    async def history_bulk(self, request: web.Request) -> web.Response:
        """Series of many runs."""
        wanted = await _decode(request, BulkRequest)
        fresh = await self._fresh(wanted.run_ids)

        def read() -> bytes:
            return _arrow(self._reader.history_bulk(wanted.run_ids, wanted.key, wanted.max_results))

        return _points_answer(await self._workers.run(read), fresh)

    async def history_interval(self, request: web.Request) -> web.Response:
        """Series of many runs, sampled."""
        wanted = await _decode(request, IntervalRequest)
        fresh = await self._fresh(wanted.run_ids)

        def read() -> bytes:
            return _arrow(
                self._reader.history_bulk_interval(
                    wanted.run_ids, wanted.key, wanted.max_results, wanted.start_step, wanted.end_step
                )
            )

        return _points_answer(await self._workers.run(read), fresh)

    async def history_steps(self, request: web.Request) -> web.Response:
        """Points of given steps of one series."""
        wanted = await _decode(request, StepsRequest)
        fresh = await self._fresh([wanted.run_id])

        def read() -> bytes:
            series = self._reader.from_steps(wanted.run_id, wanted.key, wanted.steps, wanted.max_results)
            return _arrow([(wanted.run_id, series)])

        return _points_answer(await self._workers.run(read), fresh)

    async def max_step(self, request: web.Request) -> web.Response:
        """The largest step of a series: ``{"step": …}``."""
        wanted = await _decode(request, SeriesRequest)
        fresh = await self._fresh([wanted.run_id])
        step = await self._workers.run(self._reader.max_step, wanted.run_id, wanted.key)
        return json_answer(msgspec.json.encode({"step": step}), fresh=fresh)

    async def run_statistics(self, request: web.Request) -> web.Response:
        """A column of doubles for each that is asked for, a row for each run in its order, as an Arrow stream. Whoever
        asks has waited for the writer already."""
        wanted = await _decode(request, StatisticsRequest)
        columns = [Statistic(one.key, one.what, one.step) for one in wanted.columns]

        def read() -> bytes:
            batch = self._reader.run_statistics(wanted.run_ids, columns)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            return bytes(sink.getvalue().to_pybytes())

        return _points_answer(await self._workers.run(read), fresh=True)

    async def delete_runs(self, request: web.Request) -> web.Response:
        """Remove every point of some runs, after what was appended for them has arrived."""
        wanted = await _decode(request, RunsRequest)
        # With newest values: none may be written for a run whose rows in the metadata database go next.
        if not await self._barrier.wait(wanted.run_ids, self._barrier_timeout_s):
            # What arrived after it would belong to a run that nothing removes again.
            raise BusyError("points of these runs are still on their way")
        await self._workers.run(self._reader.delete_runs, wanted.run_ids)
        return json_answer(b"{}")

    async def _fresh(self, run_ids: Sequence[str]) -> bool:
        return await self._barrier.wait(run_ids, self._barrier_timeout_s, newest=False)


async def _decode(request: web.Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.DecodeError as error:
        raise MlflowError(f"Bad request: {error}") from error


def _arrow(found: Sequence[tuple[str, Series]], next_page_token: str | None = None) -> bytes:
    schema = _POINTS
    if next_page_token is not None:
        schema = schema.with_metadata({NEXT_PAGE: next_page_token.encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for run_id, series in found:
            writer.write_batch(
                pa.record_batch(
                    [
                        pa.repeat(pa.scalar(run_id, pa.string()), len(series)),
                        pa.array(series.steps),
                        pa.array(series.timestamps),
                        pa.array(series.values),
                    ],
                    schema=schema,
                )
            )
    data: Any = sink.getvalue().to_pybytes()
    return bytes(data)


def _points_answer(body: bytes, fresh: bool) -> web.Response:
    headers = {"Content-Type": ARROW}
    if not fresh:
        headers[STALE_HEADER] = "true"
    return web.Response(body=body, headers=headers)
