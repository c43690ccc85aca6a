"""When the control plane's store may be used for a caller."""

from __future__ import annotations

from runstream.ingest.control.database.reads import MetadataUnavailableError
from runstream.ingest.control.entities import ACTIVE
from runstream.ingest.control.errors import PassOnError, no_run, run_not_active
from runstream.ingest.control.plane import ControlPlane
from runstream.ingest.control.store import RunStore
from runstream.ingest.gateway.http.admission import Identity
from runstream.ingest.gateway.http.server_mode import ModeWatch, ServerMode

_WORKSPACE = "x-mlflow-workspace"


class Control:
    """The store, for callers of whom nobody asks anything: where MLflow's server tells callers apart, or the caller
    names a workspace, MLflow's server is asked instead."""

    def __init__(self, plane: ControlPlane | None, server: ModeWatch) -> None:
        self._plane = plane
        self._server = server

    def store(self, identity: Identity) -> RunStore | None:
        """The store, ``None`` where MLflow's server has to be asked; never blocks."""
        if self._plane is None or self._server.mode is not ServerMode.OPEN:
            return None
        if any(name.lower() == _WORKSPACE and value.strip() for name, value in identity):
            return None
        return self._plane.store

    async def verdict(self, run_id: str, identity: Identity) -> bool:
        """Whether a run is there, and active; raises MLflow's error if not. ``False``: MLflow's server has to say."""
        store = self.store(identity)
        if store is None:
            return False
        try:
            state = await store.state_of_run(run_id)
        except (PassOnError, MetadataUnavailableError):
            return False
        if state is None:
            raise no_run(run_id)
        if state.lifecycle_stage != ACTIVE:
            raise run_not_active(run_id, state.lifecycle_stage)
        return True

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
