"""Takes points in: understands a metric write, has it judged, and makes it durable. Knows no HTTP framework."""

from __future__ import annotations

import asyncio

import msgspec

from runstream.ingest.control.errors import PassOnError
from runstream.ingest.control.requests import LogBatch
from runstream.ingest.gateway.control.access import Control
from runstream.ingest.gateway.control.decode import decode
from runstream.ingest.gateway.http.admission import Admission, Identity, RefusedError
from runstream.ingest.gateway.http.rights import Action
from runstream.ingest.gateway.http.upstream import Upstream
from runstream.ingest.gateway.writes.batching import Batcher, Points
from runstream.ingest.gateway.writes.log_request import LogRequest

# About what a point of a request that is held takes in memory: its part of the key, three numbers, four references.
_POINT_BYTES = 128

_PARAMS_AND_TAGS = msgspec.json.Decoder(LogBatch)


class Intake:
    """What both HTTP paths of a gateway process share.

    A write is parsed (``MlflowError`` if it is wrong in itself), then accepted: at once by ``accept_nowait`` when
    nobody has to be asked, else by ``accept``. While the MLflow server or the queue is away, it is held, within bounds.
    Acceptance ends when the points are durable; it raises ``RefusedError`` with the MLflow server's answer,
    ``MlflowError``, ``QueueFullError``, ``QueueUnavailableError`` or ``UpstreamUnavailableError``.
    """

    def __init__(
        self, batcher: Batcher, admission: Admission, tracking: Upstream, control: Control | None = None
    ) -> None:
        self._batcher = batcher
        self._admission = admission
        self._tracking = tracking
        self._control = control

    async def let_in(self, identity: Identity) -> None:
        """Before work for a caller: raises ``RefusedError`` if that is nobody whom MLflow's server knows."""
        if self._control is not None and self._control.judges_callers:
            await self._admission.check_credentials(identity)

    def accept_nowait(self, log: LogRequest, identity: Identity) -> asyncio.Future[None] | None:
        """The future of the append, shared with other requests (never cancel it); ``None`` if somebody has to be
        asked first."""
        if log.forward is not None or log.deferred_error is not None or not log.keys:
            return None
        if not self._admission.known(log.run_id, identity):
            return None
        return self._batcher.add_nowait(_points(log))

    async def accept(self, log: LogRequest, route: str, identity: Identity) -> None:
        """Accept a write, whatever it takes."""
        if log.forward is not None:
            # The answer to the rest is the verdict on the points as well.
            epoch = self._admission.epoch(log.run_id)
            if not await self._tracking.held(
                lambda: self._log_here(log, route, identity), size=len(log.forward)
            ):
                answer = await self._tracking.post_held(
                    f"/api/2.0/mlflow/runs/{route}",
                    log.forward,
                    {"Content-Type": "application/json", **dict(identity)},
                )
                if answer.status != 200:
                    raise RefusedError(answer)
                if self._control is not None:
                    await self._control.granted(log.run_id, identity, epoch[1])
            self._admission.remember(log.run_id, identity, epoch)
        elif not self._admission.known(log.run_id, identity):
            await self._tracking.held(
                lambda: self._admission.check(log.run_id, identity), size=len(log.keys) * _POINT_BYTES
            )
        if log.deferred_error is not None:
            raise log.deferred_error
        if log.keys:
            await self._batcher.add(_points(log))

    async def _log_here(self, log: LogRequest, route: str, identity: Identity) -> bool:
        """Make params and tags durable in the control plane's store; ``False`` where MLflow's server has to: it
        keeps the metrics of models, and knows what users may do."""
        if self._control is None or route != "log-batch" or log.forward is None:
            return False
        store = await self._control.for_run(identity, Action.UPDATE_RUN, log.run_id)
        if store is None:
            return False
        try:
            await store.change(decode(_PARAMS_AND_TAGS, log.forward, "application/json"))
        except PassOnError:
            return False
        return True

    async def append(self, points: Points) -> None:
        """Make points durable that the MLflow server's store has checked."""
        await self._batcher.add(points)


def _points(log: LogRequest) -> Points:
    return Points(log.run_id, log.keys, log.steps, log.timestamps, log.values)
