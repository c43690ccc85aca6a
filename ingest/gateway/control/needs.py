"""What a caller must be allowed for what the control plane serves, and what an answer of MLflow shows of that."""

from __future__ import annotations

import orjson

from runstream.ingest.control import requests
from runstream.ingest.control.requests import Change
from runstream.ingest.gateway.http.rights import Action

# What MLflow asks of a caller for each change, where the change can be made here: for the others its server is asked
# every time (who may delete, who becomes the owner of an experiment, who may see which model).
_UPDATES = (
    requests.LogParam,
    requests.SetTag,
    requests.DeleteTag,
    requests.UpdateRun,
)


def needed(change: Change) -> tuple[Action, str] | None:
    """What the caller must be allowed, and in which experiment (to create a run) or with which run."""
    match change:
        case requests.CreateRun(experiment_id=str(experiment_id)) if experiment_id:
            return Action.CREATE_RUN, experiment_id
        case requests.LogInputs(run_id=str(run_id), models=[]) if run_id:
            return Action.UPDATE_RUN, run_id
        case _ if isinstance(change, _UPDATES) and change.run_id and not getattr(change, "run_uuid", ""):
            return Action.UPDATE_RUN, change.run_id
    return None


def names_models(body: bytes) -> bool:
    """Whether runs in an answer may name models (a text of a user's may look so, too)."""
    return b'"model_' in body


def experiment_shown(body: bytes) -> str | None:
    """The experiment that MLflow's answer to ``experiments/get`` shows."""
    try:
        return str(orjson.loads(body)["experiment"]["experiment_id"])
    except (ValueError, KeyError, TypeError):
        return None


def experiments_of_runs_shown(body: bytes) -> set[str]:
    """The experiments of the runs that MLflow's answer to ``runs/search`` shows."""
    try:
        return {run["info"]["experiment_id"] for run in orjson.loads(body).get("runs", ())}
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()


def experiments_asked(body: bytes) -> list[str]:
    """The experiments that a body of ``runs/search`` names; none if it is not plain."""
    try:
        named = orjson.loads(body)["experiment_ids"]
    except (ValueError, KeyError, TypeError):
        return []
    return named if isinstance(named, list) and all(isinstance(one, str) for one in named) else []
