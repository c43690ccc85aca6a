"""What a caller sees and changes of a run that is another's: one server, its data, and a look at what is left of it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

OWN, OTHER, UNKNOWN = "team-a", "team-b", "nowhere"
# Who asks: the workspace of the header, and none.
CALLERS: dict[str, str | None] = {"other": OTHER, "unknown": UNKNOWN, "none": None, "own": OWN}
HEADER = "X-MLFLOW-WORKSPACE"
VALUE = 73591.25
CONTENT = "open-sesame-of-the-artifact"
PARAM = "open-sesame-of-the-param"
SECRETS = (str(VALUE), CONTENT, PARAM)
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Target:
    """A run with a point, a param and an artifact, and what else the routes name. ``root`` is the path of its artifacts
    below the proxy's root."""

    experiment: str
    name: str
    run: str
    root: str
    model: str = ""
    model_root: str = ""

    def names(self) -> dict[str, str]:
        """What a request's template may name."""
        return {
            "experiment": self.experiment,
            "name": self.name,
            "run": self.run,
            "root": self.root,
            "model": self.model,
            "registered": f"of-{self.run}",
        }


@dataclass(frozen=True)
class Answer:
    """What came back; ``text`` is empty for an answer that does not end."""

    status: int
    text: str


@dataclass
class Site:
    """One server; with ``workspaces`` its data is ``OWN``'s, else everybody's."""

    url: str
    workspaces: bool
    made: list[Target] = field(default_factory=list)

    def callers(self) -> list[str]:
        """Who asks, its owner last. Without workspaces, whoever names one is like any other."""
        return list(CALLERS) if self.workspaces else ["own", "none"]

    def headers(self, caller: str) -> dict[str, str]:
        """What this caller sends."""
        workspace = CALLERS[caller]
        return {} if workspace is None else {HEADER: workspace}

    @property
    def owner(self) -> str:
        """The caller whose data it is."""
        return "own" if self.workspaces else "none"

    def send(
        self,
        caller: str,
        method: str,
        path: str,
        *,
        json: Any = None,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
        stream: bool = False,
        odd: Sequence[tuple[str, str]] | None = None,
    ) -> Answer:
        """A request of a caller, its path byte for byte; no redirect is followed. ``odd`` are the header's lines
        instead of the caller's."""
        sent = {**({} if odd is not None else self.headers(caller)), **(headers or {})}
        if json is not None:
            data = _dumps(json)
            sent["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=TIMEOUT_S)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            if data is not None or method in ("POST", "PUT", "PATCH"):
                sent["Content-Length"] = str(len(data or b""))
            for name, value in (*sent.items(), *(odd or ())):
                connection.putheader(name, value.encode())
            connection.endheaders(data)
            answer = connection.getresponse()
            return Answer(answer.status, "" if stream else answer.read().decode(errors="replace"))
        finally:
            connection.close()

    def ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        """The owner's request, which has to succeed."""
        answer = self.send(self.owner, method, path, **more)
        assert answer.status < 300, (method, path, answer.status, answer.text[:500])
        decoded: dict[str, Any] = json.loads(answer.text) if answer.text else {}
        return decoded

    def prepare(self) -> None:
        """Make the workspaces."""
        if not self.workspaces:
            return
        for name in (OWN, OTHER):
            answer = self.send("none", "POST", "/api/3.0/mlflow/workspaces", json={"name": name})
            assert answer.status == 201, answer.text

    def target(self, *, models: bool = False) -> Target:
        """A new experiment of the owner's with a run, and its models if wanted."""
        api = "/api/2.0/mlflow"
        name = f"e{len(self.made)}"
        experiment = self.ask("POST", f"{api}/experiments/create", json={"name": name})["experiment_id"]
        info = self.ask("POST", f"{api}/runs/create", json={"experiment_id": experiment})["run"]["info"]
        run, uri = info["run_id"], info["artifact_uri"]
        metrics = [{"key": "loss", "value": VALUE, "timestamp": 1, "step": 0}]
        params = [{"key": "p", "value": PARAM}]
        self.ask("POST", f"{api}/runs/log-batch", json={"run_id": run, "metrics": metrics, "params": params})
        made = Target(experiment, name, run, _below(uri))
        self._put(made.root)
        if models:
            body = {"experiment_id": experiment, "name": "m"}
            model = self.ask("POST", f"{api}/logged-models", json=body)["model"]["info"]
            made = Target(experiment, name, run, made.root, model["model_id"], _below(model["artifact_uri"]))
            self._put(made.model_root)
            registered = made.names()["registered"]
            self.ask("POST", f"{api}/registered-models/create", json={"name": registered})
            version = {"name": registered, "source": uri, "run_id": run}
            self.ask("POST", f"{api}/model-versions/create", json=version)
        self.made.append(made)
        return made

    def _put(self, root: str) -> None:
        self.ask("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{root}/f.txt", data=CONTENT.encode())

    def state(self, target: Target) -> str:
        """What there is of a target, for its owner, without what differs from target to target."""
        api = "/api/2.0/mlflow"
        asked = {"experiment_ids": [target.experiment], "run_view_type": "ALL"}
        runs = self.ask("POST", f"{api}/runs/search", json=asked).get("runs", [])
        run = next(run for run in runs if run["info"]["run_id"] == target.run)
        history = self.ask("GET", f"{api}/metrics/get-history?run_id={target.run}&metric_key=loss")
        experiment = self.ask("GET", f"{api}/experiments/get?experiment_id={target.experiment}")["experiment"]
        listed = self.ask("GET", f"/api/2.0/mlflow-artifacts/artifacts?path={quote(target.root)}")
        files = {}
        for file in listed.get("files", ()):
            path = f"/api/2.0/mlflow-artifacts/artifacts/{target.root}/{file['path']}"
            files[file["path"]] = self.send(self.owner, "GET", path).text
        return json.dumps(
            [
                len(runs),
                _own_tags(run["data"].get("tags", [])),
                _own_tags(experiment.get("tags", [])),
                len(run.get("inputs", {}).get("dataset_inputs", [])),
                experiment["name"] == target.name,
                run["info"]["lifecycle_stage"],
                run["info"]["status"],
                run["data"].get("params"),
                sorted(metric["key"] for metric in run["data"].get("metrics", ())),
                sorted((point["step"], point["value"]) for point in history.get("metrics", ())),
                experiment["lifecycle_stage"],
                files,
            ],
            sort_keys=True,
        )


def _own_tags(tags: list[dict[str, str]]) -> list[str]:
    return sorted(tag["key"] for tag in tags if not tag["key"].startswith("mlflow."))


def _dumps(value: Any) -> bytes:
    return json.dumps(value).encode()


def _below(uri: str) -> str:
    assert uri.startswith("mlflow-artifacts:/"), uri
    return uri.removeprefix("mlflow-artifacts:/").lstrip("/")
