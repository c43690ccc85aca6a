"""When the control plane's store may be used for a caller."""

from __future__ import annotations

import math

from runstream.ingest.control.database.reads import MetadataUnavailableError
from runstream.ingest.control.entities import ACTIVE
from runstream.ingest.control.errors import PassOnError, no_run, run_not_active
from runstream.ingest.control.plane import ControlPlane
from runstream.ingest.control.store import RunState, RunStore
from runstream.ingest.gateway.http.admission import Identity
from runstream.ingest.gateway.http.rights import Action, Rights
from runstream.ingest.gateway.http.server_mode import ModeWatch, ServerMode
from runstream.schemas.errors import MlflowError

_WORKSPACE = "x-mlflow-workspace"


class Control:
    """The store, for whom it may serve.

    Where everybody may do everything, that is everybody. Where MLflow's server tells callers apart, it is who has
    had a yes from that server to the same kind of request in the same experiment (``Rights``): all others are passed on
    to it, and what it allows is learnt. A caller that names a workspace where there are none is its to answer.
    """

    def __init__(self, plane: ControlPlane | None, server: ModeWatch, rights: Rights) -> None:
        self._plane = plane
        self._server = server
        self.rights = rights

    def store(self, identity: Identity) -> RunStore | None:
        """The store where nobody has to be asked, else ``None``; never blocks."""
        if self._plane is None or self._server.mode is not ServerMode.OPEN or _names_workspace(identity):
            return None
        return self._plane.store

    def judged(self, identity: Identity) -> RunStore | None:
        """The store for a caller that MLflow's server tells apart from others: to be used where ``rights`` knows that
        it may. ``None`` where that server has to answer all; never blocks."""
        if self._plane is None or self._server.mode in (ServerMode.OPEN, ServerMode.UNKNOWN):
            return None
        if self._server.mode is not ServerMode.WORKSPACES and _names_workspace(identity):
            return None
        return self._plane.store

    @property
    def has_workspaces(self) -> bool:
        """Whether names of experiments mean another one in each workspace."""
        return self._server.mode is ServerMode.WORKSPACES

    async def for_run(self, identity: Identity, action: Action, run_id: str) -> RunStore | None:
        """The store, if this may be done with the run here."""
        if (store := self.store(identity)) is not None:
            return store
        if (store := self.judged(identity)) is None:
            return None
        experiment = await self._experiment_of(store, run_id)
        return store if experiment and self.rights.knows(identity, action, experiment) else None

    def for_experiment(self, identity: Identity, action: Action, experiment_id: str) -> RunStore | None:
        """The store, if this may be done in the experiment here."""
        if (store := self.store(identity)) is not None:
            return store
        if experiment_id and self.rights.knows(identity, action, experiment_id):
            return self.judged(identity)
        return None

    async def granted(self, run_id: str, identity: Identity, epoch: object) -> None:
        """MLflow's server has let the caller log to the run."""
        await self.learn_of_run(identity, Action.UPDATE_RUN, run_id, epoch)

    async def learn_of_run(self, identity: Identity, action: Action, run_id: str, epoch: object) -> None:
        """MLflow's server has let the caller do this with the run; ``rights.epoch()`` was ``epoch`` before."""
        store = self.judged(identity)
        experiment = await self._experiment_of(store, run_id) if store is not None else None
        if experiment:
            self.rights.learn(identity, action, experiment, epoch)

    async def verdict(self, run_id: str, identity: Identity) -> float:
        """For how many seconds it is known that a run is there and active, and that the caller may log to it; raises
        MLflow's error if it is not. 0: MLflow's server has to say."""
        everybodys = self.store(identity)
        if everybodys is None:
            store = self.judged(identity)
            state = await _state_of_known(store, run_id) if store is not None else None
            if state is None or state.lifecycle_stage != ACTIVE:
                return 0.0
            return self.rights.holds_s(identity, Action.UPDATE_RUN, str(state.experiment_id))
        try:
            state = await everybodys.state_of_run(run_id)
        except (PassOnError, MetadataUnavailableError):
            return 0.0
        if state is None:
            raise no_run(run_id)
        if state.lifecycle_stage != ACTIVE:
            raise run_not_active(run_id, state.lifecycle_stage)
        return math.inf

    async def _experiment_of(self, store: RunStore, run_id: str) -> str | None:
        known = self.rights.experiment_of(run_id)
        if known is not None:
            return known
        state = await _state_of_known(store, run_id)
        if state is None:
            return None
        self.rights.belongs(run_id, str(state.experiment_id))
        return str(state.experiment_id)

    @property
    def server_info(self) -> bytes | None:
        """What MLflow's server has last said of itself, where it tells nobody apart from others."""
        return self._server.info if self._server.mode is ServerMode.OPEN else None

    @property
    def judges_callers(self) -> bool:
        """Whether MLflow's server knows users."""
        return self._server.mode in (ServerMode.BASIC_AUTH, ServerMode.USERS)

    @property
    def undecided(self) -> bool:
        """Whether it is only not known yet if the store may be used."""
        return self._plane is not None and (
            self._server.mode is ServerMode.UNKNOWN
            or (
                self._plane.store is None and self._server.mode is ServerMode.OPEN and not self._plane.unknown
            )
        )


async def _state_of_known(store: RunStore, run_id: str) -> RunState | None:
    """``None`` for whatever there is to say about it: MLflow's server says it."""
    try:
        return await store.state_of_run(run_id)
    except (PassOnError, MetadataUnavailableError, MlflowError):
        return None


def _names_workspace(identity: Identity) -> bool:
    return any(name.lower() == _WORKSPACE and value.strip() for name, value in identity)
