"""A request for every route of the gateway: what it would show, or change, of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

API = "/api/1.0/runstream"
APIS = ("/api/2.0/mlflow", "/ajax-api/2.0/mlflow")
PROXIES = ("/api/2.0/mlflow-artifacts", "/ajax-api/2.0/mlflow-artifacts")
Kind = Literal["read", "write", "delete"]


@dataclass(frozen=True)
class Probe:
    """``route`` is the gateway's name of the route. ``path`` and ``body`` may name ``{run}``, ``{root}`` and so on.

    ``arrow`` makes the body a point of the run in Arrow. ``own`` says that MLflow's server has no such route,
    ``stream`` that its answer does not end: its status counts.
    """

    method: str
    route: str
    path: str
    kind: Kind = "read"
    body: Any = None
    data: bytes | None = None
    arrow: bool = False
    own: bool = False
    stream: bool = False
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind} {self.method} {self.path}"


def probes() -> list[Probe]:
    """The table."""
    return [*_metrics(), *_runs(), *_artifacts(), *_pages(), *_own(), *_rest()]


def _metrics() -> Iterator[Probe]:
    point = {"key": "loss", "value": 1, "timestamp": 2, "step": 2}
    for api in APIS:
        batch = {"run_id": "{run}", "metrics": [point]}
        yield _of("POST", f"{api}/runs/log-batch", kind="write", body=batch)
        yield _of("POST", f"{api}/runs/log-metric", kind="write", body={"run_id": "{run}", **point})
        query = "run_id={run}&metric_key=loss"
        yield _of("GET", f"{api}/metrics/get-history", query)
        yield _of("GET", f"{api}/metrics/get-history-bulk-interval", "run_ids={run}&metric_key=loss")
    yield _of("GET", "/ajax-api/2.0/mlflow/metrics/get-history-bulk", "run_id={run}&metric_key=loss")
    ingest = f"{API}/ingest"
    for what in ("experiments", "runs", "logged-models"):
        create = {"experiment_id": "{experiment}", "name": f"{what}-{{run}}"}
        yield Probe("POST", f"{API}/{what}/create", f"{API}/{what}/create", "write", body=create, own=True)
    stream = {"Content-Type": "application/vnd.apache.arrow.stream"}
    yield Probe("GET", ingest, ingest, own=True)
    yield Probe("POST", ingest, ingest, "write", arrow=True, own=True, headers=stream)
    columns = {"run_id": "{run}", "keys": ["loss"], "steps": [3], "timestamps": [3], "values": [3.0]}
    yield _of("POST", f"{API}/internal/append", kind="write", body=columns)


def _runs() -> Iterator[Probe]:
    for api in APIS:
        yield _of("GET", f"{api}/runs/get", "run_id={run}")
        yield _of("POST", f"{api}/runs/search", body={"experiment_ids": ["{experiment}"]})
        yield _of("POST", f"{api}/logged-models/search", body={"experiment_ids": ["{experiment}"]})
        yield _of("GET", f"{api}/experiments/get", "experiment_id={experiment}")
        yield _of("GET", f"{api}/experiments/get-by-name", "experiment_name={name}")
        for change, body in _changes(api):
            yield _of("POST", f"{api}/{change}", kind="write", body=body)
        for change in ("runs/restore", "runs/delete"):
            yield _of("POST", f"{api}/{change}", kind="delete", body={"run_id": "{run}"})
        for change in ("experiments/restore", "experiments/delete"):
            yield _of("POST", f"{api}/{change}", kind="delete", body={"experiment_id": "{experiment}"})
    asked = 'query { mlflowGetRun(input: {runId: "{run}"}) { run { data { metrics { key value } } } } }'
    yield _of("POST", "/graphql", body={"query": asked})
    yield _of("GET", "/graphql", "query=" + quote(asked).replace(quote("{run}"), "{run}"))
    fields = "{ metrics { value } }"
    asked = (
        'query { mlflowGetMetricHistoryBulkInterval(input: {runIds: ["{run}"], metricKey: "loss"}) '
        + fields
        + "}"
    )
    yield _of("POST", "/graphql", body={"query": asked})


def _changes(api: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Writes of the control plane. ``api`` makes what they make new."""
    experiment, run = {"experiment_id": "{experiment}"}, {"run_id": "{run}"}
    new = f"new-{len(api)}-{{run}}"
    yield "experiments/create", {"name": new}
    yield "experiments/set-experiment-tag", {**experiment, "key": "k", "value": "v"}
    yield "experiments/delete-experiment-tag", {**experiment, "key": "k"}
    yield "experiments/update", {**experiment, "new_name": f"of-{new}"}
    yield "runs/create", experiment
    yield "runs/update", {**run, "status": "FAILED"}
    yield "runs/set-tag", {**run, "key": "k", "value": "v"}
    yield "runs/delete-tag", {**run, "key": "k"}
    yield "runs/log-parameter", {**run, "key": "p2", "value": "changed"}
    dataset = {"name": "d", "digest": "1", "source_type": "local", "source": "{}"}
    yield "runs/log-inputs", {**run, "datasets": [{"dataset": dataset, "tags": []}]}
    yield "runs/outputs", {**run, "models": [{"model_id": "m-0", "step": 0}]}
    yield "logged-models", {**experiment, "name": "made"}


def _artifacts() -> Iterator[Probe]:
    for api in PROXIES:
        one = f"{api}/artifacts/{{path}}"
        below = f"{api}/artifacts/{{path}}"
        # As the owner names it; without the workspace's own folder, and with it; and folders above.
        named = (
            "{root}",
            "{experiment}/{run}/artifacts",
            "workspaces/team-a/{experiment}/{run}/artifacts",
        )
        for root in named[: 3 if api == PROXIES[0] else 1]:
            yield _of("GET", f"{api}/artifacts", f"path={root}")
            yield Probe("GET", one, f"{api}/artifacts/{root}/f.txt")
            yield Probe("HEAD", one, f"{api}/artifacts/{root}/f.txt")
            yield Probe("PUT", one, f"{api}/artifacts/{root}/f.txt", "write", data=b"written")
            yield Probe("PUT", one, f"{api}/artifacts/{root}/new.txt", "write", data=b"written")
            yield Probe("DELETE", below, f"{api}/artifacts/{root}/f.txt", "delete")
            yield Probe("GET", f"{api}/presigned/{{path}}", f"{api}/presigned/{root}/f.txt")
            for what, body in (
                ("create", {"path": "f.txt", "num_parts": 1}),
                ("complete", {"path": "f.txt", "upload_id": "u", "parts": [{"part_number": 1, "etag": "e"}]}),
                ("abort", {"path": "f.txt", "upload_id": "u"}),
            ):
                yield Probe(
                    "POST",
                    f"{api}/mpu/{what}/{{path}}",
                    f"{api}/mpu/{what}/{root}/f.txt",
                    "write",
                    body=body,
                )
        for above in (
            "workspaces",
            "workspaces/team-a",
            "workspaces/team-a/{experiment}/{run}",
            "{experiment}",
        ):
            yield _of("GET", f"{api}/artifacts", f"path={above}")
        yield Probe("DELETE", below, f"{api}/artifacts/workspaces/team-a/{{experiment}}", "delete")
        yield _of("GET", f"{api}/artifacts")
        yield _of("GET", f"{api}/artifacts", "path=")


def _pages() -> Iterator[Probe]:
    yield _of("GET", "/get-artifact", "run_id={run}&path=f.txt")
    yield _of("GET", "/get-artifact", "run_uuid={run}&path=f.txt")
    yield _of("GET", "/model-versions/get-artifact", "name={registered}&version=1&path=f.txt")
    upload = "/ajax-api/2.0/mlflow/upload-artifact"
    yield Probe("POST", upload, f"{upload}?run_uuid={{run}}&path=f.txt", "write", data=b"from the page")
    files = "/ajax-api/2.0/mlflow/logged-models/{model_id}/artifacts/files"
    yield Probe("GET", files, files.replace("{model_id}", "{model}") + "?artifact_file_path=f.txt")
    for api in APIS:
        yield _of("GET", f"{api}/artifacts/list", "run_id={run}")
        yield _of("POST", f"{api}/artifacts/presigned-upload-url", body={"run_id": "{run}", "path": "f.txt"})
    for api in ("/api/3.0/mlflow", "/ajax-api/3.0/mlflow"):
        yield _of("GET", f"{api}/server-info")


def _own() -> Iterator[Probe]:
    runs = {"runs": ["{run}"]}
    json = {"Accept": "application/json"}
    below = f"{API}/metrics/{{tail}}"
    for name in ("query", "latest", "summary"):
        yield Probe("POST", below, f"{API}/metrics/{name}", body=runs, own=True, headers=json)
    mean = {**runs, "stats": ["mean"]}
    yield Probe("POST", below, f"{API}/metrics/aggregate", body=mean, own=True, headers=json)
    yield Probe("GET", below, f"{API}/metrics/query", own=True)
    yield Probe("POST", f"{API}/metrics", f"{API}/metrics", body=runs, own=True)
    # Two values of one field, one caller's own run and another's: whichever is read, it was asked for.
    twice = b'{"runs": ["0123456789abcdef0123456789abcdef"], "runs": ["%s"]}'
    for pair in (twice, twice.replace(b'"%s"', b'"x"').replace(b"0123456789abcdef0123456789abcdef", b"%s")):
        yield Probe("POST", below, f"{API}/metrics/query", data=pair, own=True, headers=json)
    live = f"{API}/live"
    yield Probe("GET", live, f"{live}?run_id={{run}}", own=True, stream=True)
    yield Probe("POST", live, live, body=runs, own=True, stream=True)
    yield Probe("GET", f"{live}/{{tail}}", f"{live}/{{run}}", own=True)
    of_run = f"{API}/runs/{{tail}}"
    yield Probe("GET", of_run, f"{API}/runs/{{run}}/metrics/live", own=True, stream=True)
    yield Probe("GET", of_run, f"{API}/runs/x%2F..%2F{{run}}/metrics/live", own=True, stream=True)
    yield Probe("GET", f"{API}/runs", f"{API}/runs", own=True)
    table = {"experiment_ids": ["{experiment}"], "columns": ["metrics.*", "params.*"]}
    for columns in (table, {**table, "experiment_ids": ["0", "{experiment}"]}):
        yield Probe("POST", f"{API}/runs", f"{API}/runs", body=columns, own=True, headers=json)
    yield Probe("POST", "/{tail}", "//api/1.0/runstream/runs", body=table, own=True, headers=json)
    sql = {"query": "SELECT value FROM metrics"}
    yield Probe("POST", f"{API}/sql", f"{API}/sql", body=sql, own=True, headers=json)
    yield Probe("POST", f"{API}/sql/{{tail}}", f"{API}/sql/", body=sql, own=True, headers=json)
    for name in ("openapi.json", "page"):
        yield Probe("GET", f"{API}/{name}", f"{API}/{name}", own=True)
        yield Probe("GET", f"{API}/{name}/{{tail}}", f"{API}/{name}/x", own=True)
    yield Probe("GET", "/runstream", "/runstream", own=True)
    yield Probe("GET", "/runstream/{tail}", "/runstream/", own=True)
    yield Probe("GET", "/runstream/{tail}", f"/runstream/..{live}?run_id={{run}}", own=True)


def _rest() -> Iterator[Probe]:
    for route in ("/health", "/ready", "/metrics"):
        yield Probe("GET", route, route, own=True)
        yield Probe("HEAD", route, route, own=True)
    everything = "/{tail}"
    history = "metrics/get-history?run_id={run}&metric_key=loss"
    file = "mlflow-artifacts/artifacts/{root}/f.txt"
    point = {"run_id": "{run}", "key": "loss", "value": 1, "timestamp": 4, "step": 4}
    for before in ("//api/2.0/", "/x/../api/2.0/", "/%61pi/2.0/"):
        yield Probe("GET", everything, f"{before}mlflow/{history}")
        yield Probe("GET", everything, f"{before}{file}")
        yield Probe("PUT", everything, f"{before}{file}", "write", data=b"written")
        yield Probe("DELETE", everything, f"{before}{file}", "delete")
        yield Probe("POST", everything, f"{before}mlflow/runs/log-metric", "write", body=point)
    for path in (
        "experiments/get?experiment_id={experiment}",
        "runs/get?run_id={run}&x=/",
        "metrics/get-history/",
    ):
        yield Probe("GET", everything, f"/api/2.0/mlflow/{path}")
    for own in ("sql", "metrics/query"):
        body = {"query": "SELECT value FROM metrics"} if own == "sql" else {"runs": ["{run}"]}
        yield Probe("POST", everything, f"//api/1.0/runstream/{own}", body=body, own=True)
        yield Probe("POST", everything, f"/%61pi/1.0/runstream/{own}", body=body, own=True)


def _of(method: str, path: str, query: str = "", *, kind: Kind = "read", body: Any = None) -> Probe:
    return Probe(method, path, f"{path}?{query}" if query else path, kind, body)
