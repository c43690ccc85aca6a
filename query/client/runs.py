"""Runs, however a notebook has them at hand, as run ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from runstream.query.client.http import Http, ServerError

_PAGE = 1_000


def run_ids(runs: Any) -> list[str]:
    """The ids of a run id, an MLflow run, a DataFrame of ``search_runs``, or any collection of these.

    Raises ``TypeError`` for anything else, and ``ValueError`` for no run at all.
    """
    found = list(dict.fromkeys(_ids(runs)))
    if not found:
        raise ValueError("no runs")
    return found


def _ids(runs: Any) -> Iterable[str]:
    if isinstance(runs, str):
        return [runs]
    run_id = getattr(runs, "run_id", None)
    if isinstance(run_id, str):  # ours, and MLflow's RunInfo
        return [run_id]
    run_id = getattr(getattr(runs, "info", None), "run_id", None)
    if isinstance(run_id, str):  # MLflow's Run
        return [run_id]
    if "run_id" in getattr(runs, "columns", ()):  # pandas and polars
        return [str(run) for run in runs["run_id"]]
    if isinstance(runs, Iterable) and not isinstance(runs, bytes | dict):
        return [run_id for run in runs for run_id in _ids(run)]
    raise TypeError(f"not a run or a collection of runs: {type(runs).__name__}")


def experiment_ids(http: Http, experiments: Any) -> list[str]:
    """The ids of experiments: a name, an id, an experiment, or a list of these; digits in a text are a name where an
    experiment has it, else an id. Raises ``ServerError`` and ``ValueError``."""
    alone = isinstance(experiments, str | int) or hasattr(experiments, "experiment_id")
    named = [experiments] if alone else list(experiments)
    if not named:
        raise ValueError("no experiments")
    return list(dict.fromkeys(_experiment_id(http, name) for name in named))


def search_run_ids(http: Http, experiment: Any, filter_string: str | None) -> list[str]:
    """The ids of all runs that MLflow's search finds, newest first; ``experiment`` as in ``experiment_ids``.

    Raises ``ServerError`` and ``ValueError``.
    """
    if experiment is None:
        raise ValueError("name runs, or an experiment to search")
    body: dict[str, Any] = {
        "experiment_ids": experiment_ids(http, experiment),
        "max_results": _PAGE,
        **({"filter": filter_string} if filter_string else {}),
    }
    found: list[str] = []
    while True:
        page = http.json("POST", "/api/2.0/mlflow/runs/search", json=body)
        found += [run["info"]["run_id"] for run in page.get("runs", [])]
        if not page.get("next_page_token"):
            return found
        body["page_token"] = page["next_page_token"]


def _experiment_id(http: Http, name: Any) -> str:
    experiment_id = getattr(name, "experiment_id", name)
    if experiment_id is not name or isinstance(name, int):
        return str(experiment_id)
    text = str(name)
    try:
        found = http.json("GET", "/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": text})
    except ServerError as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" and text.isdecimal():
            return text
        raise
    return str(found["experiment"]["experiment_id"])
