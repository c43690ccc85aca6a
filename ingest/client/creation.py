"""Creating what a client has made up while it could not ask: experiments by name, runs and models under given ids.

Runstream creates a run or a logged model under the id that it is given, and the same call again finds it there. Any
other MLflow server chooses ids itself: there the run carries its first id in a tag, by which it is found again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from runstream.ingest.client.link import MLFLOW, Link, RefusedError

OWN = "/api/1.0/runstream"
ID_TAG = "runstream.run_id"


def create(link: Link, wanted: Mapping[str, Any], renamed: dict[str, str]) -> dict[str, Any]:
    """Create what a CREATE record names, unless it is there already; the server's answer.

    ``wanted`` is ``{"what": "experiment" | "run" | "model", "body": …, "experiment": {"id", "name"}}``. Ids that turn
    out to be others are noted in ``renamed``. Raises ``RefusedError`` for what the server will never take.
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
    try:
        return _create_own(link, f"{OWN}/runs/create", body)
    except RefusedError as error:
        if error.status not in (404, 405) or error.code == "RESOURCE_DOES_NOT_EXIST":
            raise
    return _create_elsewhere(link, body, renamed)


def _create_model(link: Link, body: dict[str, Any], renamed: dict[str, str]) -> dict[str, Any]:
    body["source_run_id"] = renamed.get(str(body["source_run_id"]), body["source_run_id"])
    try:
        return _create_own(link, f"{OWN}/logged-models/create", body)
    except RefusedError as error:
        if error.status not in (404, 405) or error.code == "RESOURCE_DOES_NOT_EXIST":
            raise
    own_id = str(body.pop("model_id"))
    answer = link.call("POST", f"{MLFLOW}/logged-models", body)
    renamed[own_id] = str(answer["model"]["info"]["model_id"])
    return answer


def _create_own(link: Link, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    return link.call("POST", path, body)


def _create_elsewhere(link: Link, body: dict[str, Any], renamed: dict[str, str]) -> dict[str, Any]:
    own_id = str(body.pop("run_id"))
    # A parent may have got another id as well.
    body["tags"] = [{**tag, "value": renamed.get(tag["value"], tag["value"])} for tag in body.get("tags", [])]
    found = find_run(link, own_id, [str(body["experiment_id"])])
    if found is None:
        body["tags"] = [*body["tags"], {"key": ID_TAG, "value": own_id}]
        found = link.call("POST", f"{MLFLOW}/runs/create", body)["run"]
    renamed[own_id] = str(found["info"]["run_id"])
    return {"run": found}


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
