"""Whether a caller may write to a run, asked of the MLflow server and remembered for a while.

The question is an empty ``log-batch`` with the caller's own headers: MLflow answers 404, 400, 401 or 403 exactly as
it would for a full one, and writes nothing. Only a yes is remembered.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from ingest.gateway.epochs import Epochs
from ingest.gateway.upstream import Answer, Upstream, UpstreamUnavailableError

# What MLflow's server may base its verdict on: credentials, session, workspace.
IDENTITY_HEADERS = ("Authorization", "Cookie", "X-MLFLOW-WORKSPACE")

Identity = tuple[tuple[str, str], ...]
LOG_BATCH = "/api/2.0/mlflow/runs/log-batch"


class RefusedError(Exception):
    """MLflow's server said no (or could not say): ``answer`` goes to the caller as it is."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"refused with {answer.status}")
        self.answer = answer


@dataclass(slots=True)
class _Verdict:
    epoch: tuple[int, int]
    fresh_until: float
    usable_until: float


class Admission:
    """Verdicts by run and caller, with one question under way per pair.

    ``ttl_s`` bounds how long a change that did not pass through this machine's gateways can stay unseen.
    While the MLflow server is away, a verdict is used for up to ``stale_s`` instead: training goes on.
    """

    def __init__(
        self,
        tracking: Upstream,
        epochs: Epochs,
        *,
        ttl_s: float,
        stale_s: float,
        max_entries: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tracking = tracking
        self._epochs = epochs
        self._ttl_s = ttl_s
        self._stale_s = stale_s
        self._max_entries = max_entries
        self._clock = clock
        self._verdicts: OrderedDict[tuple[str, Identity], _Verdict] = OrderedDict()
        self._asking: dict[tuple[str, Identity], asyncio.Task[None]] = {}

    def known(self, run_id: str, identity: Identity) -> bool:
        """Whether a fresh yes is remembered; never blocks."""
        verdict = self._verdicts.get((run_id, identity))
        return (
            verdict is not None
            and verdict.fresh_until > self._clock()
            and verdict.epoch == self._epochs.of(run_id)
        )

    async def check(self, run_id: str, identity: Identity) -> None:
        """Return if the caller may write to the run; raise ``RefusedError`` with MLflow's answer if not, and
        ``UpstreamUnavailableError`` if nobody can say."""
        if self.known(run_id, identity):
            return
        key = (run_id, identity)
        epoch = self._epochs.of(run_id)
        task = self._asking.get(key)
        if task is None:
            task = asyncio.create_task(self._ask(key, epoch))
            self._asking[key] = task
            task.add_done_callback(lambda _: self._asking.pop(key, None))
            await asyncio.shield(task)
            return
        await asyncio.shield(task)
        # That question may have been put before a change that this caller has already seen.
        if self._epochs.of(run_id) != epoch or not self.known(run_id, identity):
            await self.check(run_id, identity)

    async def _ask(self, key: tuple[str, Identity], epoch: tuple[int, int]) -> None:
        run_id, identity = key
        try:
            answer = await self._tracking.post(
                LOG_BATCH,
                orjson.dumps({"run_id": run_id}),
                {"Content-Type": "application/json", **dict(identity)},
            )
            if answer.status >= 500:
                # No verdict: the server is there, but what it needs (its database) is not.
                raise UpstreamUnavailableError("the tracking server cannot answer")
        except UpstreamUnavailableError:
            verdict = self._verdicts.get(key)
            if verdict and verdict.usable_until > self._clock() and verdict.epoch == self._epochs.of(run_id):
                verdict.fresh_until = self._clock() + 1.0
                return
            raise
        if answer.status != 200:
            self._verdicts.pop(key, None)
            raise RefusedError(answer)
        self.remember(run_id, identity, epoch)

    def remember(self, run_id: str, identity: Identity, epoch: tuple[int, int]) -> None:
        """Store a yes that MLflow gave while the run's counters were ``epoch``."""
        now = self._clock()
        key = (run_id, identity)
        self._verdicts[key] = _Verdict(epoch, now + self._ttl_s, now + self._stale_s)
        self._verdicts.move_to_end(key)
        while len(self._verdicts) > self._max_entries:
            self._verdicts.popitem(last=False)

    def epoch(self, run_id: str) -> tuple[int, int]:
        """The run's counters now, for a later ``remember``."""
        return self._epochs.of(run_id)
