"""Whether a caller may write to a run, asked and remembered for a while.

Where everybody may do everything, the control plane's store knows whether there is such a run. Else the MLflow server
is asked. The question is an empty ``log-batch`` with the caller's own headers: MLflow answers 404, 400, 401 or 403
exactly as it would for a full one, and writes nothing. A yes is remembered, and for a few seconds that credentials are
wrong: checking a password costs MLflow a quarter of a second of a core, whoever asks.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson
from cachetools import FIFOCache

from runstream.ingest.gateway.http.epochs import Epochs
from runstream.ingest.gateway.http.upstream import Answer, Upstream, UpstreamUnavailableError
from runstream.schemas.errors import MlflowError
from runstream.schemas.mlflow.paths import API

# What MLflow's server may base its verdict on: credentials, session, workspace.
IDENTITY_HEADERS = ("Authorization", "Cookie", "X-MLFLOW-WORKSPACE")

Identity = tuple[tuple[str, str], ...]
# For how many seconds at most it is known that a caller may write to a run, where that can be said without the MLflow
# server: it raises ``MlflowError`` for no, and 0 says that the server has to be asked.
VerdictHere = Callable[[str, Identity], Awaitable[float]]
# Told of the server's yes, and what the counter for everything was before it.
Granted = Callable[[str, Identity, int], Awaitable[None]]
# How long a caller with an older yes waits for a new one.
_PATIENCE_S = 1.0
# How long wrong credentials are not asked about again, and how many of them are remembered. A user who is made, or
# gets another password, through a gateway of this machine voids it at once.
_WRONG_S = 5.0
_WRONG_ENTRIES = 4_096
LOG_BATCH = f"{API}/runs/log-batch"
_NO_RUN = ""


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


@dataclass(frozen=True, slots=True)
class _Wrong:
    epoch: int
    until: float
    answer: Answer


@dataclass(frozen=True, slots=True)
class _Question:
    task: asyncio.Task[None]
    began: float


class Admission:
    """Verdicts by run and caller, with one question under way per pair.

    ``ttl_s`` bounds how long a change that did not pass through this machine's gateways can stay unseen.
    While the MLflow server is away, a verdict is used for up to ``stale_s`` instead: training goes on.
    """

    def __init__(
        self,
        tracking: Upstream,
        epochs: Epochs,
        verdict_here: VerdictHere | None = None,
        granted: Granted | None = None,
        *,
        ttl_s: float,
        stale_s: float,
        max_entries: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tracking = tracking
        self._epochs = epochs
        self._verdict_here = verdict_here
        self._granted = granted
        self._ttl_s = ttl_s
        self._stale_s = stale_s
        self._clock = clock
        self._verdicts: FIFOCache[tuple[str, Identity], _Verdict] = FIFOCache(max_entries)
        self._wrong: FIFOCache[Identity, _Wrong] = FIFOCache(_WRONG_ENTRIES)
        self._asking: dict[tuple[str, Identity], _Question] = {}

    def known(self, run_id: str, identity: Identity) -> bool:
        """Whether a fresh yes is remembered; never blocks."""
        verdict = self._verdicts.get((run_id, identity))
        return (
            verdict is not None
            and verdict.fresh_until > self._clock()
            and verdict.epoch == self._epochs.of(run_id)
        )

    async def check(self, run_id: str, identity: Identity) -> None:
        """Return if the caller may write to the run; raise ``RefusedError`` with MLflow's answer, or ``MlflowError``,
        if not, and ``UpstreamUnavailableError`` if nobody can say."""
        key = (run_id, identity)
        while not self.known(run_id, identity):
            question = self._asking.get(key)
            mine = question is None or question.task.done()
            if question is None or question.task.done():
                question = self._asking[key] = _Question(self._begin(key), self._clock())
            if self._usable(key):
                # A server that hangs must not slow down a training that it has allowed before.
                left_s = question.began + _PATIENCE_S - self._clock()
                if left_s > 0:
                    await asyncio.wait({question.task}, timeout=left_s)
                if not question.task.done() and self._usable(key):
                    return
            await asyncio.shield(question.task)
            if mine:
                return
            # Another caller's question may have been put before a change that this one has already seen.

    async def check_credentials(self, identity: Identity) -> None:
        """Raise ``RefusedError`` if MLflow's server does not know these credentials, whatever they ask for. What it
        does not say within a second is left to ``check``."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self.check_known(identity)
        except (UpstreamUnavailableError, MlflowError, TimeoutError):
            pass

    async def check_known(self, identity: Identity) -> None:
        """Return if MLflow's server knows these credentials; raise ``RefusedError`` if not, and
        ``UpstreamUnavailableError`` if nobody can say."""
        epoch = self._epochs.of(_NO_RUN)
        try:
            await self.check(_NO_RUN, identity)
        except RefusedError as refused:
            if refused.answer.status == 401:
                raise
            self.remember(_NO_RUN, identity, epoch)

    def _usable(self, key: tuple[str, Identity]) -> bool:
        """Whether there is an older yes, for while the server cannot be asked."""
        verdict = self._verdicts.get(key)
        return (
            verdict is not None
            and verdict.usable_until > self._clock()
            and verdict.epoch == self._epochs.of(key[0])
        )

    def _begin(self, key: tuple[str, Identity]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._ask(key, self._epochs.of(key[0])))

        def ended(_: asyncio.Task[None]) -> None:
            question = self._asking.get(key)
            if question is not None and question.task is task:
                del self._asking[key]
            if not task.cancelled():
                task.exception()  # read here: there may be nobody left who waits for it

        task.add_done_callback(ended)
        return task

    async def _ask(self, key: tuple[str, Identity], epoch: tuple[int, int]) -> None:
        run_id, identity = key
        if self._verdict_here is not None:
            try:
                holds_s = await self._verdict_here(run_id, identity)
                if holds_s > 0:
                    self.remember(run_id, identity, epoch, at_most_s=holds_s)
                    return
            except MlflowError:
                self._verdicts.pop(key, None)
                raise
        wrong = self._wrong.get(identity)
        if wrong is not None and wrong.until > self._clock() and wrong.epoch == epoch[1]:
            raise RefusedError(wrong.answer)
        try:
            answer = await self._tracking.post(
                LOG_BATCH,
                orjson.dumps({"run_id": run_id}),
                {"Content-Type": "application/json", **dict(identity)},
            )
            if answer.status >= 500 and answer.error_code in (None, "TEMPORARILY_UNAVAILABLE"):
                # No verdict: the server is there, but what it needs (its database) is not. Any other error of
                # MLflow's is its answer, whatever the status: FEATURE_DISABLED is 500.
                raise UpstreamUnavailableError("the tracking server cannot answer")
        except UpstreamUnavailableError:
            if self._usable(key):
                self._verdicts[key].fresh_until = self._clock() + 1.0
                return
            raise
        if answer.status != 200:
            self._verdicts.pop(key, None)
            if answer.status == 401 and identity:
                self._wrong[identity] = _Wrong(epoch[1], self._clock() + _WRONG_S, answer)
            raise RefusedError(answer)
        self.remember(run_id, identity, epoch)
        if self._granted is not None:
            await self._granted(run_id, identity, epoch[1])

    def remember(
        self, run_id: str, identity: Identity, epoch: tuple[int, int], *, at_most_s: float = math.inf
    ) -> None:
        """Store a yes that MLflow gave while the run's counters were ``epoch``; one that was given before holds for
        ``at_most_s``."""
        now = self._clock()
        key = (run_id, identity)
        self._verdicts[key] = _Verdict(epoch, now + min(self._ttl_s, at_most_s), now + self._stale_s)

    def epoch(self, run_id: str) -> tuple[int, int]:
        """The run's counters now, for a later ``remember``."""
        return self._epochs.of(run_id)
