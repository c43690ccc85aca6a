"""Reads, and everything else: what the gateway passes on, and what it waits for first.

Metric histories go to the query service. Searches of runs stay with the MLflow server, after the writer has applied
what was acknowledged before (read your writes). The rest goes to the MLflow server as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable

import orjson
from aiohttp import web

from runstream.ingest.gateway.http import refusals
from runstream.ingest.gateway.http.admission import Identity, RefusedError
from runstream.ingest.gateway.http.caller import Caller
from runstream.ingest.gateway.http.epochs import Epochs
from runstream.ingest.gateway.http.hosts import HostRules
from runstream.ingest.gateway.http.origins import Origins
from runstream.ingest.gateway.http.server_mode import ModeWatch, ServerMode
from runstream.ingest.gateway.http.upstream import Upstream, UpstreamUnavailableError
from runstream.ingest.gateway.reads import needs
from runstream.ingest.gateway.reads.needs import Need
from runstream.ingest.gateway.reads.verdicts import RunVerdicts
from runstream.ingest.gateway.telemetry import GatewayTelemetry
from runstream.schemas.errors import MlflowError, RunstreamError
from runstream.schemas.mlflow.paths import APIS
from runstream.schemas.wire import BARRIER, STALE_HEADER

Relay = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HISTORIES = ("get-history", "get-history-bulk-interval")
_BARRIER_RETRY_S = 0.1
# The query service bounds its reads and answers in time by itself; this is for one that hangs.
_READ_BEGINS_WITHIN_S = 90.0
_BARRIER_GRACE_S = 0.5
_JSON = {"Content-Type": "application/json"}
_OFF = (
    "This can show any run, and is off with users or workspaces: Runstream asks for MLflow's permissions where runs"
    " are named"
)

# Changes that can touch many callers' rights.
_WIDE_MARKS = ("/users/", "/permissions", "/roles", "/scorers/permissions", "/workspaces")


class ReadRoutes:
    """Handlers for reads and for the rest, of one gateway process.

    ``query`` and ``own`` are the query service, over connections of their own: listeners to live points and long
    downloads keep theirs, and must not stand in the way of MLflow's reads.
    """

    def __init__(
        self,
        *,
        tracking: Upstream,
        query: Upstream,
        own: Upstream,
        epochs: Epochs,
        hosts: HostRules,
        origins: Origins,
        telemetry: GatewayTelemetry,
        barrier_timeout_s: float,
        retry_after_s: int,
        server: ModeWatch,
        verdicts: RunVerdicts,
        verdict_ttl_s: float,
        let_in: Callable[[Identity], Awaitable[None]],
    ) -> None:
        self._let_in = let_in
        self._tracking = tracking
        self._query = query
        self._own = own
        self._epochs = epochs
        self._hosts = hosts
        self._origins = origins
        self._telemetry = telemetry
        self._barrier_timeout_ms = int(barrier_timeout_s * 1000)
        self._retry_after_s = retry_after_s
        self._server = server
        self._verdicts = verdicts
        self._verdict_ttl_s = max(1.0, verdict_ttl_s)

    def add_to(self, app: web.Application, prefix: str) -> None:
        """Mount the routes, Runstream's own also without ``prefix``; the last one takes whatever no other has."""
        add = app.router.add_route
        for api in APIS:
            for history in _HISTORIES:
                add("GET", f"{prefix}{api}/metrics/{history}", self.history)
            add("POST", f"{prefix}{api}/runs/search", self.fresh)
        add("GET", f"{prefix}/ajax-api/2.0/mlflow/metrics/get-history-bulk", self.history)
        for method in ("GET", "POST"):
            add(method, f"{prefix}/graphql", self.fresh)
        for base in {"", prefix}:
            own = functools.partial(self.own, mounted_at=base)
            for route in ("metrics", "runs", "live", "sql", "openapi.json", "page"):
                add("*", f"{base}/api/1.0/runstream/{route}", own)
                add("*", f"{base}/api/1.0/runstream/{route}/{{tail:.*}}", own)
            add("*", f"{base}/runstream", own)
            add("*", f"{base}/runstream/{{tail:.*}}", own)
        add("*", "/{tail:.*}", self.rest)

    async def history(self, request: web.Request) -> web.StreamResponse:
        """A metric history: from the query service where everybody may see everything, else through the MLflow
        server, whose store asks the same service after it has judged."""
        if not self._hosts.serves(request) or not await self._unjudged(request):
            return await self.relay(request)
        return await self._ask_query(self._query, request)

    async def own(self, request: web.Request, *, mounted_at: str = "") -> web.StreamResponse:
        """A route of the query service, for callers that MLflow's host and origin rules let in. ``mounted_at`` is
        what stands before its path here."""
        asked_before = self._origins.preflight(request)
        if asked_before is not None and self._hosts.allows(request.headers.get("Host", "")):
            return asked_before
        if not self._hosts.allows(request.headers.get("Host", "")) or not self._origins.lets_in(request):
            return refusals.refusal(
                MlflowError("Cross-origin request blocked", "PERMISSION_DENIED"), self._retry_after_s
            )
        if await self._unjudged(request):
            return await self._ask_query(self._own, request, mounted_at)
        return await self._judged(request, mounted_at)

    async def _judged(self, request: web.Request, mounted_at: str) -> web.StreamResponse:
        """A route of Runstream's own where the MLflow server tells callers apart: what it shows is asked for first."""
        need, run_id = needs.find(request.method, request.rel_url.raw_path.removeprefix(mounted_at))
        caller = Caller.of(request)
        try:
            if need is Need.EVERYTHING:
                raise MlflowError(_OFF, "PERMISSION_DENIED")
            if need is Need.NOTHING:
                return await self._ask_query(self._own, request, mounted_at)
            runs = await needs.named_runs(request, need, run_id)
            await self._verdicts.check(caller, runs)
            body = await request.read() if need is Need.RUNS_IN_BODY else None
        except Exception as error:
            return refusals.refusal(await self._first_told(caller, error), self._retry_after_s)
        asking = asyncio.create_task(self._ask_query(self._own, request, mounted_at, body))
        # An answer may go on for hours (live points): it ends when the caller may not see it any more.
        try:
            while not (await asyncio.wait({asking}, timeout=self._verdict_ttl_s))[0]:
                with contextlib.suppress(UpstreamUnavailableError):
                    await self._verdicts.check(caller, runs)
            return await asking
        except RefusedError as error:
            # It has begun: all that is left is to break the connection. Who connects again is told why.
            if request.transport is not None:
                request.transport.abort()
            raise asyncio.CancelledError from error
        finally:
            asking.cancel()

    async def _first_told(self, caller: Caller, error: Exception) -> Exception:
        """What a caller is told first: who it is comes before what it asked for."""
        if isinstance(error, MlflowError):
            try:
                await self._let_in(caller.identity)
            except RefusedError as refused:
                return refused
        return error

    async def _unjudged(self, request: web.Request) -> bool:
        """Whether the MLflow server would show everything to this caller: it is the server's way that counts. A
        caller that names a workspace is for it to judge (or to refuse, where it has none)."""
        mode = await self._server.settled()
        return mode is ServerMode.OPEN and not Caller.of(request).workspace

    async def _ask_query(
        self, query: Upstream, request: web.Request, mounted_at: str = "", body: bytes | None = None
    ) -> web.StreamResponse:
        self._telemetry.request("history")
        try:
            return await query.relay(
                request,
                body=body,
                begin_timeout_s=_READ_BEGINS_WITHIN_S,
                mounted_at=mounted_at,
                extra_headers=self._origins.headers(request),
            )
        except RunstreamError as error:
            self._telemetry.refused("query_away" if error.retryable else refusals.reason(error))
            return refusals.refusal(error, self._retry_after_s)

    async def fresh(self, request: web.Request) -> web.StreamResponse:
        """A read that can show any run: wait for everything appended."""
        if await self.barrier(None):
            return await self.relay(request)
        self._telemetry.stale_read()
        return await self.relay(request, {STALE_HEADER: "true"})

    async def barrier(self, run_ids: list[str] | None) -> bool:
        """Wait, within the bound, until the writer has applied what was appended before now.

        The bound holds for a writer that is being started again as well.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._barrier_timeout_ms / 1000
        while True:
            left_ms = max(0, int((deadline - clock()) * 1000))
            body = orjson.dumps({"run_ids": run_ids, "timeout_ms": left_ms})
            try:
                # It answers in time by itself; one that hangs does not.
                async with asyncio.timeout_at(deadline + _BARRIER_GRACE_S):
                    answer = await self._query.post(BARRIER, body, _JSON)
            except TimeoutError:
                return False
            except UpstreamUnavailableError:
                if clock() + _BARRIER_RETRY_S >= deadline:
                    return False
                await asyncio.sleep(_BARRIER_RETRY_S)
                continue
            return answer.status == 200 and bool(orjson.loads(answer.body).get("fresh"))

    async def wide_change(self, request: web.Request) -> web.StreamResponse:
        """Rights change."""
        answered = False

        def void() -> None:
            nonlocal answered
            answered = True
            self._epochs.bump(None)

        try:
            # Before the answer leaves: whoever has seen it must find the verdict gone.
            return await self.relay(request, before_answer=void)
        finally:
            if not answered:
                self._epochs.bump_later(None)

    async def rest(self, request: web.Request) -> web.StreamResponse:
        """Everything that is MLflow's."""
        if request.method not in ("GET", "HEAD", "OPTIONS") and any(
            mark in request.path for mark in _WIDE_MARKS
        ):
            return await self.wide_change(request)
        return await self.relay(request)

    async def relay(
        self,
        request: web.Request,
        extra_headers: dict[str, str] | None = None,
        *,
        body: bytes | None = None,
        content: AsyncIterator[bytes] | None = None,
        before_answer: Callable[[], None] | None = None,
    ) -> web.StreamResponse:
        """Pass a request on to the MLflow server. ``body``, or ``content``, if its own is not to be read."""
        self._telemetry.request("proxy")
        try:
            return await self._tracking.relay(
                request,
                extra_headers=extra_headers,
                body=body,
                content=content,
                before_answer=before_answer,
            )
        except RunstreamError as error:
            self._telemetry.refused(refusals.reason(error))
            return refusals.refusal(error, self._retry_after_s)
