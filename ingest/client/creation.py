"""Creating what a client has made up while it could not ask: experiments by name, runs and models under given ids.

Runstream creates a run or a logged model under the id that it is given, and the same call again finds it there. Any
other MLflow server chooses ids itself: there the run carries its first id in a tag, by which it is found again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runstream.ingest.client.agreement import may_create
from runstream.ingest.client.link import MLFLOW, BusyError, Link, NotYetError, RefusedError
from runstream.ingest.client.spool import run_folder

OWN = "/api/1.0/runstream"
ID_TAG = "runstream.run_id"
_PARENT_TAG = "mlflow.parentRunId"


def create(
    link: Link, wanted: Mapping[str, Any], renamed: dict[str, str], spool: Path | None = None
) -> dict[str, Any]:
    """Create what a CREATE record names, unless it is there already; the server's answer.

    ``wanted`` is ``{"what": "experiment" | "run" | "model", "body": …, "experiment": {"id", "name"}}``. Ids that turn
    out to be others are noted in ``renamed``. ``spool`` is where senders of the same run agree on which of them creates
    it; ``None``: nobody else can know of this run yet.

    Raises ``RefusedError`` for what the server will never take, ``NotYetError`` where something else comes first.
    """
    body = dict(wanted["body"])
    if wanted["what"] == "experiment":
        experiment_id = experiment(link, str(body["name"]), body)
        renamed[str(wanted["id"])] = experiment_id
        return {"experiment_id": experiment_id}
    about = wanted.get("experiment") or {}
    if about.get("name") is not None:
        body["experiment_id"] = renamed[str(about["id"])] = experiment(link, str(about["name"]), {})
    if wanted["what"] == "model":
        return _create_model(link, body, renamed)
    if (answer := _create_own(link, f"{OWN}/runs/create", body)) is not None:
        return answer
    return _create_elsewhere(link, body, renamed, spool)


def _create_model(link: Link, body: dict[str, Any], renamed: dict[str, str]) -> dict[str, Any]:
    body["source_run_id"] = renamed.get(str(body["source_run_id"]), body["source_run_id"])
    if (made := _create_own(link, f"{OWN}/logged-models/create", body)) is not None:
        return made
    own_id = str(body.pop("model_id"))
    answer = link.call("POST", f"{MLFLOW}/logged-models", body)
    renamed[own_id] = str(answer["model"]["info"]["model_id"])
    return answer


def _create_own(link: Link, path: str, body: Mapping[str, Any]) -> dict[str, Any] | None:
    """``None`` where the server has no such route, or does not take just this there, as a name that is very long: then
    MLflow's own route has the last word."""
    try:
        return link.call("POST", path, body)
    except RefusedError as error:
        unknown = error.status in (404, 405) and error.code != "RESOURCE_DOES_NOT_EXIST"
        if unknown or error.code == "INVALID_PARAMETER_VALUE":
            return None
        raise


def _create_elsewhere(
    link: Link, body: dict[str, Any], renamed: dict[str, str], spool: Path | None
) -> dict[str, Any]:
    own_id = str(body.pop("run_id"))
    found = None
    if spool is not None:
        found = find_run(link, own_id, [str(body["experiment_id"])])
        if found is None:
            if not may_create(run_folder(spool, own_id)):
                raise BusyError(f"run {own_id} is being created by another process")
            # Whoever claimed it before may have created it since.
            found = find_run(link, own_id, [str(body["experiment_id"])])
    if found is None:
        tags = [_renamed_parent(link, tag, renamed, spool) for tag in body.get("tags", [])]
        body["tags"] = [*tags, {"key": ID_TAG, "value": own_id}]
        found = link.call("POST", f"{MLFLOW}/runs/create", body)["run"]
    renamed[own_id] = str(found["info"]["run_id"])
    return {"run": found}


def _renamed_parent(
    link: Link, tag: dict[str, Any], renamed: dict[str, str], spool: Path | None
) -> dict[str, Any]:
    """A parent may have got another id as well, or may not be there yet."""
    parent = str(tag["value"])
    if tag["key"] == _PARENT_TAG and parent not in renamed and spool is not None:
        if (found := find_run(link, parent)) is not None:
            renamed[parent] = str(found["info"]["run_id"])
        elif any(run_folder(spool, parent).glob("*.rsf")) and not _exists(link, parent):
            raise NotYetError(f"run {parent}, the parent of another, does not exist on {link.uri}")
    return {**tag, "value": renamed.get(parent, parent)}


def _exists(link: Link, run_id: str) -> bool:
    try:
        link.call("GET", f"{MLFLOW}/runs/get?run_id={quote(run_id, safe='')}", None)
    except RefusedError:
        return False
    return True


def find_run(link: Link, own_id: str, experiment_ids: list[str] | None = None) -> dict[str, Any] | None:
    """The run that has been created for this id, on a server that chooses ids itself."""
    if experiment_ids is None:
        found = link.call("POST", f"{MLFLOW}/experiments/search", {"max_results": 1_000})
        experiment_ids = [str(one["experiment_id"]) for one in found.get("experiments", [])]
    wanted = {"experiment_ids": experiment_ids, "filter": f"tags.`{ID_TAG}` = '{own_id}'", "max_results": 1}
    runs = link.call("POST", f"{MLFLOW}/runs/search", wanted).get("runs", [])
    return dict(runs[0]) if runs else None


def experiment(link: Link, name: str, body: Mapping[str, Any]) -> str:
    """The id of the experiment with this name, which is created if there is none."""
    by_name = f"{MLFLOW}/experiments/get-by-name?experiment_name={quote(name, safe='')}"
    try:
        return str(link.call("GET", by_name, None)["experiment"]["experiment_id"])
    except RefusedError as error:
        if error.code != "RESOURCE_DOES_NOT_EXIST":
            raise
    try:
        return str(link.call("POST", f"{MLFLOW}/experiments/create", {**body, "name": name})["experiment_id"])
    except RefusedError as error:
        # Somebody else was faster.
        if error.code != "RESOURCE_ALREADY_EXISTS":
            raise
    return str(link.call("GET", by_name, None)["experiment"]["experiment_id"])
