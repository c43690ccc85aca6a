"""A store of runs: what the gateway asks of the control plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from runstream.ingest.control.requests import Change

# What MLflow answers, in the order of its fields; ``runstream.ingest.control.answers`` writes it as MLflow does.
Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunState:
    """What a metric write has to know of a run. ``lifecycle_stage`` is MLflow's: ``active`` or ``deleted``."""

    run_id: str
    experiment_id: int
    lifecycle_stage: str


class RunStore(Protocol):
    """Experiments, runs and logged models on MLflow's own tables. Belongs to one event loop.

    Answers, errors, defaults and rows are MLflow's (``mlflow.server.handlers`` over ``SqlAlchemyStore``). Raises
    ``MlflowError`` with MLflow's words, ``PassOnError`` where MLflow's server has to answer itself, and
    ``MetadataUnavailableError`` if the database does not take it now: then nothing was done, or, for a change only,
    perhaps everything (``QueueFullError``: surely nothing, too many are waiting).
    """

    async def change(self, change: Change) -> Body:
        """Make a change, durably. Changes that come while a transaction is under way share the next one; each is
        decided on its own, in the order in which they came."""
        ...

    async def get_run(self, run_id: str) -> Body:
        """``runs/get``, with newest values as they stand in ``latest_metrics``."""
        ...

    async def get_experiment(self, experiment_id: str) -> Body:
        """``experiments/get``."""
        ...

    async def get_experiment_by_name(self, name: str) -> Body:
        """``experiments/get-by-name``."""
        ...

    async def get_logged_model(self, model_id: str) -> Body:
        """``logged-models/{model_id}``."""
        ...

    async def get_logged_models_named(self, experiment_ids: Sequence[str], name: str) -> Body:
        """``logged-models/search`` for ``name = '…'``, where all fit a page of 100."""
        ...

    async def state_of_run(self, run_id: str) -> RunState | None:
        """Whether a run is there, and whether it is active. Questions asked together cost one read."""
        ...

    async def close(self) -> None:
        """Finish what was accepted, then close every connection."""
        ...
