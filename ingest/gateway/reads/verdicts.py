"""Which runs a caller may see, asked of the MLflow server and remembered for a while.

The question is MLflow's own ``runs/get`` with the caller's headers: where it shows the run, its points may be shown. As
MLflow decides by experiment (``mlflow.server.auth`` by its permission, workspaces by where it belongs), one run
answers for its whole experiment, and what is asked for many runs is asked once for each experiment they are of. Only a
yes is remembered, per caller; to which experiment a run belongs is the same for everybody and never changes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from urllib.parse import quote

from runstream.ingest.gateway.http.admission import RefusedError
from runstream.ingest.gateway.http.caller import Caller
from runstream.ingest.gateway.http.rights import Action, Rights
from runstream.ingest.gateway.http.upstream import Answer, UpstreamUnavailableError

_GET_RUN = "/api/2.0/mlflow/runs/get?run_id="
_GET_EXPERIMENT = "/api/2.0/mlflow/experiments/get?experiment_id="
_SEARCH = "/api/2.0/mlflow/runs/search"
# From so many runs on, their experiments are looked up many at a time.
_FEW = 3
_AT_ONCE = 200
_DEADLINE_S = 60.0

Get = Callable[[str, Mapping[str, str]], Awaitable[Answer]]
Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[Answer]]


class RunVerdicts:
    """``get`` and ``post`` ask the MLflow server; ``rights`` remembers what it said."""

    def __init__(self, *, get: Get, post: Post, rights: Rights) -> None:
        self._get = get
        self._post = post
        self._rights = rights

    async def check(self, caller: Caller, run_ids: Iterable[str]) -> None:
        """Return if the caller may see all of these runs. Raises ``RefusedError`` with MLflow's answer about one that
        it may not, and ``UpstreamUnavailableError`` if nobody can say in time; what was learnt by then is kept."""
        unknown = [run_id for run_id in dict.fromkeys(run_ids) if not self._known(caller, run_id)]
        try:
            async with asyncio.timeout(_DEADLINE_S):
                while unknown:
                    experiment = await self._ask(caller, unknown[0])
                    if len(unknown) > _FEW:
                        await self._look_up(caller, experiment, unknown[1:])
                    unknown = [run_id for run_id in unknown[1:] if not self._known(caller, run_id)]
        except TimeoutError:
            raise UpstreamUnavailableError("the tracking server has not judged all runs yet") from None

    async def check_experiments(self, caller: Caller, experiment_ids: Iterable[str]) -> None:
        """Return if the caller may see all of these experiments, which is what MLflow asks of who searches their runs.
        Raises as ``check`` does."""
        try:
            async with asyncio.timeout(_DEADLINE_S):
                for experiment in dict.fromkeys(experiment_ids):
                    if self._rights.knows(caller.identity, Action.READ_EXPERIMENT, experiment):
                        continue
                    epoch = self._rights.epoch()
                    answer = await self._get(_GET_EXPERIMENT + experiment, dict(caller.identity))
                    if answer.status != 200:
                        raise RefusedError(answer)
                    self._rights.learn(caller.identity, Action.READ_EXPERIMENT, experiment, epoch)
        except TimeoutError:
            raise UpstreamUnavailableError("the tracking server has not judged all experiments yet") from None

    def _known(self, caller: Caller, run_id: str) -> bool:
        experiment = self._rights.experiment_of(run_id)
        return experiment is not None and self._rights.knows(caller.identity, Action.READ_RUN, experiment)

    async def _ask(self, caller: Caller, run_id: str) -> str:
        """The run's experiment, which the caller may see."""
        epoch = self._rights.epoch()
        answer = await self._get(_GET_RUN + quote(run_id, safe=""), dict(caller.identity))
        if answer.status != 200:
            raise RefusedError(answer)
        experiment = _experiment(answer)
        self._rights.belongs(run_id, experiment)
        self._rights.learn(caller.identity, Action.READ_RUN, experiment, epoch)
        return experiment

    async def _look_up(self, caller: Caller, experiment: str, run_ids: list[str]) -> None:
        """Learn which of these runs are of this experiment; one that is not found stays to be asked for."""
        missing = [run_id for run_id in run_ids if self._rights.experiment_of(run_id) is None]
        headers = {**dict(caller.identity), "Content-Type": "application/json"}
        for at in range(0, len(missing), _AT_ONCE):
            names = ", ".join(f"'{run_id}'" for run_id in missing[at : at + _AT_ONCE])
            question = {
                "experiment_ids": [experiment],
                "filter": f"attributes.run_id IN ({names})",
                "run_view_type": "ALL",
                "max_results": _AT_ONCE,
            }
            answer = await self._post(_SEARCH, json.dumps(question).encode(), headers)
            if answer.status != 200:
                return
            for run in json.loads(answer.body).get("runs", ()):
                self._rights.belongs(run["info"]["run_id"], run["info"]["experiment_id"])


def _experiment(answer: Answer) -> str:
    try:
        return str(json.loads(answer.body)["run"]["info"]["experiment_id"])
    except (ValueError, KeyError, TypeError):
        raise UpstreamUnavailableError("the tracking server does not say whose the run is") from None
