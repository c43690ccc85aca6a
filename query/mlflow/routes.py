"""MLflow's metric-history endpoints, answered as MLflow 3.17 answers them."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from runstream.query.http.errors import json_answer
from runstream.query.http.workers import Workers
from runstream.query.mlflow.bodies import bulk_body, history_body, interval_body
from runstream.query.mlflow.history import HistoryReader, Page
from runstream.query.mlflow.requests import (
    BulkRequest,
    IntervalRequest,
    parse_bulk,
    parse_history,
    parse_interval,
)
from runstream.query.points.series import Series
from runstream.schemas.mlflow.limits import MAX_HISTORY_BULK
from runstream.schemas.mlflow.paths import APIS
from runstream.schemas.ports.barrier import Barrier

# Points that are written as JSON on the event loop: about a millisecond's.
_AT_ONCE = 2_000


class MlflowRoutes:
    """``get-history``, ``get-history-bulk`` and ``get-history-bulk-interval``.

    Every read waits, up to ``barrier_timeout_s``, for what was appended before it began.
    """

    def __init__(
        self, reader: HistoryReader, workers: Workers, barrier: Barrier, *, barrier_timeout_s: float
    ) -> None:
        self._reader = reader
        self._workers = workers
        self._barrier = barrier
        self._barrier_timeout_s = barrier_timeout_s

    def add_to(self, app: web.Application, prefix: str = "") -> None:
        """Mount the routes under ``prefix`` (MLflow's ``--static-prefix``)."""
        for api in APIS:
            app.router.add_get(f"{prefix}{api}/metrics/get-history", self.history)
            app.router.add_get(f"{prefix}{api}/metrics/get-history-bulk-interval", self.interval)
        app.router.add_get(f"{prefix}/ajax-api/2.0/mlflow/metrics/get-history-bulk", self.bulk)

    async def history(self, request: web.Request) -> web.Response:
        """One page of one series."""
        wanted = parse_history(request.query, await _body(request))
        fresh = await self._fresh([wanted.run_id])

        # A thread costs more than a small answer.
        at_hand = self._reader.at_hand(wanted.run_id, wanted.key, wanted.max_results, wanted.page_token)
        if at_hand is not None and len(at_hand.series) <= _AT_ONCE:
            return json_answer(history_body(wanted.key, at_hand.series, at_hand.next_page_token), fresh=fresh)

        def read() -> bytes:
            page: Page = self._reader.history(
                wanted.run_id, wanted.key, wanted.max_results, wanted.page_token
            )
            return history_body(wanted.key, page.series, page.next_page_token)

        return json_answer(await self._workers.run(read), fresh=fresh)

    async def bulk(self, request: web.Request) -> web.Response:
        """One key's series of many runs, at most 25,000 points together."""
        wanted = parse_bulk(request.query)
        fresh = await self._fresh(wanted.run_ids)
        return json_answer(await self._workers.run(self._bulk_body, wanted), fresh=fresh)

    def _bulk_body(self, wanted: BulkRequest) -> bytes:
        limit = wanted.max_results if wanted.max_results >= 0 else MAX_HISTORY_BULK
        found = self._reader.history_bulk(wanted.run_ids, wanted.key, limit)
        if wanted.max_results < 0:
            found = _without_last(found, -wanted.max_results)
        return bulk_body(wanted.key, found)

    async def interval(self, request: web.Request) -> web.Response:
        """One key's series of many runs, each sampled."""
        wanted = parse_interval(request.query, await _body(request))
        fresh = await self._fresh(wanted.run_ids)
        return json_answer(await self._workers.run(self._interval_body, wanted), fresh=fresh)

    def _interval_body(self, wanted: IntervalRequest) -> bytes:
        found = self._reader.history_bulk_interval(
            wanted.run_ids, wanted.key, wanted.max_results, wanted.start_step, wanted.end_step
        )
        return interval_body(wanted.key, found)

    async def _fresh(self, run_ids: Sequence[str]) -> bool:
        return await self._barrier.wait(run_ids, self._barrier_timeout_s, newest=False)


async def _body(request: web.Request) -> bytes:
    if len(request.query) or not request.can_read_body:
        return b""
    return await request.read()


def _without_last(found: Sequence[tuple[str, Series]], count: int) -> list[tuple[str, Series]]:
    left = sum(len(series) for _, series in found) - count
    kept = []
    for run_id, series in found:
        if left <= 0:
            break
        kept.append((run_id, series.take(slice(0, left))))
        left -= len(series)
    return kept
