"""What callers may do in an experiment, as the MLflow server has shown, remembered for a while.

Where MLflow tells callers apart, it decides by experiment (``mlflow.server.auth`` by its permission, workspaces by
where it belongs). So its yes to one request of a caller answers for the same kind of thing in the same experiment,
and what it has answered need not be asked again for a while. Only a yes is remembered, never for another caller.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass

from cachetools import TTLCache

from runstream.ingest.gateway.http.admission import Identity

_MAX_RIGHTS = 50_000
_MAX_RUNS = 100_000
# A run that is gone for good (``mlflow gc``) is remembered no longer than this.
_BELONGS_S = 600.0
# How long an old yes holds until it is looked at again whether the server is still away.
_LOOK_AGAIN_S = 1.0


class Action(enum.Enum):
    """What MLflow judges alike within an experiment."""

    READ_RUN = "read a run"
    UPDATE_RUN = "log to a run, or change it"
    CREATE_RUN = "create a run"
    READ_EXPERIMENT = "read the experiment"


@dataclass(frozen=True, slots=True)
class _Yes:
    epoch: object
    fresh_until: float


class Rights:
    """``epoch`` changes when rights may have changed: what was learnt before is void.

    A yes holds for ``ttl_s``; while the MLflow server ``is_away``, for ``stale_s``, so that trainings go on.
    """

    def __init__(
        self,
        *,
        ttl_s: float,
        stale_s: float,
        epoch: Callable[[], object],
        is_away: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.epoch = epoch
        self._ttl_s = ttl_s
        self._is_away = is_away
        self._clock = clock
        self._yes: MutableMapping[tuple[Identity, Action, str], _Yes] = TTLCache(
            _MAX_RIGHTS, max(ttl_s, stale_s), timer=clock
        )
        self._experiments: MutableMapping[str, str] = TTLCache(_MAX_RUNS, _BELONGS_S, timer=clock)

    def knows(self, identity: Identity, action: Action, experiment_id: str) -> bool:
        """Whether this caller may do this in the experiment, as far as is remembered; never blocks."""
        return self.holds_s(identity, action, experiment_id) > 0

    def holds_s(self, identity: Identity, action: Action, experiment_id: str) -> float:
        """For how many seconds more it is known, 0 if it is not."""
        yes = self._yes.get((identity, action, experiment_id))
        if yes is None or yes.epoch != self.epoch():
            return 0.0
        left_s = yes.fresh_until - self._clock()
        return left_s if left_s > 0 else _LOOK_AGAIN_S * self._is_away()

    def learn(self, identity: Identity, action: Action, experiment_id: str, epoch: object) -> None:
        """Remember a yes that the MLflow server gave when asked at ``epoch``."""
        self._yes[identity, action, experiment_id] = _Yes(epoch, self._clock() + self._ttl_s)

    def experiment_of(self, run_id: str) -> str | None:
        """The experiment of a run, if it is remembered. It is the same for everybody and never changes."""
        return self._experiments.get(run_id)

    def belongs(self, run_id: str, experiment_id: str) -> None:
        """Remember the experiment of a run."""
        self._experiments[run_id] = experiment_id
