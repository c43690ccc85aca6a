"""Runs of an MLflow server that knows users: what it has allowed is then served without it, and nothing else is."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from runstream.schemas.wire import API as OWN
from support.raw_http import Answer, RawClient
from support.runstream_server import RunstreamServer

API = "/api/2.0/mlflow"
ADMIN = ("admin", "a-long-enough-password")
WRITER = ("writer", "another-long-password")
READER = ("reader", "a-third-long-password")
STRANGER = ("stranger", "a-fourth-long-password")
NOBODY = ("admin", "not-the-right-password")
METRICS_TOKEN = "for-prometheus"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass
class Site:
    """A server with users, and an experiment that the writer may edit and the reader may read."""

    server: RunstreamServer
    experiment: str
    other: str

    def send(
        self, method: str, path: str, user: tuple[str, str] | None, body: Any = None, **headers: str
    ) -> Answer:
        sent = {"Content-Type": "application/json", **headers}
        if user is not None:
            sent["Authorization"] = "Basic " + base64.b64encode(":".join(user).encode()).decode()
        client = RawClient(self.server.url, timeout_s=60)
        try:
            return client.send(method, path, None if body is None else json.dumps(body).encode(), sent)
        finally:
            client.close()

    def post(self, path: str, user: tuple[str, str] | None, body: Any) -> Answer:
        return self.send("POST", f"{API}/{path}", user, body)

    def get_run(self, run_id: str, user: tuple[str, str] | None) -> Answer:
        return self.send("GET", f"{API}/runs/get?run_id={run_id}", user)

    def search(self, user: tuple[str, str] | None, *experiments: str) -> list[str]:
        answer = self.post("runs/search", user, {"experiment_ids": list(experiments), "max_results": 1000})
        assert answer.status == 200, answer
        return [run["info"]["run_id"] for run in answer.json.get("runs", ())]

    def create(self, user: tuple[str, str], experiment: str | None = None) -> str:
        answer = self.post("runs/create", user, {"experiment_id": experiment or self.experiment})
        assert answer.status == 200, answer
        return str(answer.json["run"]["info"]["run_id"])

    def grant(self, user: tuple[str, str], permission: str, experiment: str | None = None) -> None:
        right = {
            "username": user[0],
            "resource_type": "experiment",
            "resource_id": experiment or self.experiment,
        }
        revoke = permission == "NO_PERMISSIONS"
        path = f"/api/3.0/mlflow/users/permissions/{'revoke' if revoke else 'grant'}"
        body = right if revoke else {**right, "permission": permission}
        answer = self.send("POST", path, ADMIN, body)
        assert answer.status == 200, answer

    @contextmanager
    def without_mlflow(self) -> Iterator[None]:
        """MLflow's server hangs: whoever asks it anything finds out."""
        tracking = self.server.processes()["tracking"]
        tracking.suspend()
        try:
            yield
        finally:
            tracking.resume()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("users")
    config = folder / "auth.ini"
    config.write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{folder / 'auth.db'}\n"
        f"admin_username = {ADMIN[0]}\nadmin_password = {ADMIN[1]}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    environment = {
        "RUNSTREAM_BASIC_AUTH": "true",
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "for-this-test",
        # Nothing here may depend on how fast the machine is.
        "RUNSTREAM_VERDICT_TTL_S": "3600",
        "RUNSTREAM_METRICS_TOKEN": METRICS_TOKEN,
    }
    with RunstreamServer(folder / "data", workers=1, environment=environment) as server:
        site = Site(server, "", "")
        for user in (WRITER, READER, STRANGER):
            body = {"username": user[0], "password": user[1]}
            assert site.post("users/create", ADMIN, body).status == 200
        for name in ("experiment", "other"):
            made = site.post("experiments/create", ADMIN, {"name": name})
            setattr(site, name, made.json["experiment_id"])
        site.grant(WRITER, "EDIT")
        site.grant(READER, "READ")
        yield site


def life_of_a_run(site: Site, user: tuple[str, str]) -> str:
    """Everything that a training does with a run; all of it must be allowed."""
    run_id = site.create(user)
    batch = {
        "run_id": run_id,
        "metrics": [{"key": "m", "value": 1.5, "timestamp": 1, "step": 0}],
        "params": [{"key": "p", "value": "1"}],
        "tags": [{"key": "t", "value": "1"}],
    }
    for path, body in (
        ("runs/log-parameter", {"run_id": run_id, "key": "lr", "value": "0.1"}),
        ("runs/set-tag", {"run_id": run_id, "key": "stage", "value": "one"}),
        ("runs/log-batch", batch),
        ("runs/log-metric", {"run_id": run_id, "key": "n", "value": 2.0, "timestamp": 1}),
        ("runs/log-inputs", {"run_id": run_id, "datasets": []}),
        ("runs/update", {"run_id": run_id, "status": "FINISHED", "end_time": 5}),
    ):
        answer = site.post(path, user, body)
        assert answer.status == 200, (path, answer)
    shown = site.get_run(run_id, user).json["run"]
    assert shown["info"]["status"] == "FINISHED"
    assert {pair["key"]: pair["value"] for pair in shown["data"]["params"]} == {"p": "1", "lr": "0.1"}
    assert {one["key"]: one["value"] for one in shown["data"]["metrics"]} == {"m": 1.5, "n": 2.0}
    assert run_id in site.search(user, site.experiment)
    return run_id


def test_what_mlflow_has_allowed_goes_on_without_it(site: Site) -> None:
    first = life_of_a_run(site, WRITER)
    assert site.send("GET", f"{API}/experiments/get?experiment_id={site.experiment}", WRITER).status == 200
    with site.without_mlflow():
        second = life_of_a_run(site, WRITER)
        by_name = site.send("GET", f"{API}/experiments/get-by-name?experiment_name=experiment", WRITER)
        assert by_name.json["experiment"]["experiment_id"] == site.experiment
    # MLflow's own server sees what was made without it, and the right people do.
    for user in (ADMIN, READER):
        assert {first, second} <= set(site.search(user, site.experiment))
        assert site.get_run(second, user).json["run"]["info"]["status"] == "FINISHED"


def test_a_yes_is_nobody_elses(site: Site) -> None:
    run_id = life_of_a_run(site, WRITER)
    hidden = site.create(ADMIN, site.other)
    assert site.get_run(run_id, READER).status == 200
    # The reader reads, here and at MLflow's.
    for _ in range(2):
        assert site.search(READER, site.experiment, site.other).count(hidden) == 0
        for path, body in (
            ("runs/set-tag", {"run_id": run_id, "key": "stage", "value": "evil"}),
            ("runs/log-parameter", {"run_id": run_id, "key": "evil", "value": "1"}),
            ("runs/update", {"run_id": run_id, "status": "FAILED"}),
            ("runs/delete", {"run_id": run_id}),
            ("runs/create", {"experiment_id": site.experiment}),
            ("runs/log-batch", {"run_id": run_id, "params": [{"key": "evil", "value": "1"}]}),
            (
                "runs/log-batch",
                {"run_id": run_id, "metrics": [{"key": "m", "value": 9, "timestamp": 9, "step": 9}]},
            ),
        ):
            for user, status in (
                (READER, 403),
                (STRANGER, 403),
                ((WRITER[0], "wrong-password"), 401),
                (None, 401),
            ):
                answer = site.post(path, user, body)
                assert answer.status == status, (path, user, answer)
        for user, status in ((STRANGER, 403), ((WRITER[0], "wrong-password"), 401), (None, 401)):
            assert site.get_run(run_id, user).status == status
    # Nor is a yes in one experiment one in another, whoever asks.
    assert site.post("runs/create", WRITER, {"experiment_id": site.other}).status == 403
    assert site.post("runs/set-tag", WRITER, {"run_id": hidden, "key": "a", "value": "b"}).status == 403
    assert site.get_run(hidden, WRITER).status == 403
    assert site.search(WRITER, site.experiment, site.other).count(hidden) == 0
    assert site.search(STRANGER, site.experiment, site.other) == []
    tags = site.get_run(run_id, WRITER).json["run"]["data"]["tags"]
    assert "evil" not in json.dumps(tags)


def test_a_right_that_is_taken_away_is_gone_at_once(site: Site) -> None:
    run_id = life_of_a_run(site, WRITER)
    assert site.get_run(run_id, READER).status == 200
    site.grant(READER, "NO_PERMISSIONS")
    try:
        assert site.get_run(run_id, READER).status == 403
        assert site.search(READER, site.experiment) == []
    finally:
        site.grant(READER, "READ")
    assert site.get_run(run_id, READER).status == 200


def test_runs_that_are_deleted(site: Site) -> None:
    run_id = life_of_a_run(site, WRITER)
    assert site.post("runs/delete", ADMIN, {"run_id": run_id}).status == 200
    for path, body in (
        ("runs/set-tag", {"run_id": run_id, "key": "a", "value": "b"}),
        ("runs/log-metric", {"run_id": run_id, "key": "n", "value": 2.0, "timestamp": 1}),
    ):
        answer = site.post(path, WRITER, body)
        assert answer.status == 400, answer
        assert "active" in answer.json["message"]


def odd_requests() -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """Each with something to be told about: a path, a body, headers."""
    json_, junk = {"Content-Type": "application/json"}, b'{"run_id": '
    many = json.dumps({"run_id": "0" * 32, "metrics": [{"key": "k"}] * 5_000}).encode()
    paths = ["log-batch", "log-metric", "log-parameter", "set-tag", "create", "update", "search", "delete"]
    for path in (*(f"{API}/runs/{path}" for path in paths), f"{API}/experiments/create"):
        for body in (junk, b"[]", many):
            yield path, body, json_
        yield path, junk, {**json_, "Content-Encoding": "gzip"}
    for path in ("metrics/query", "runs", "sql", "live", "ingest"):
        yield f"{OWN}/{path}", junk, json_
    yield f"{OWN}/ingest", b"", {"Content-Type": "text/plain"}
    yield f"{API}/runs/log-batch", b"x" * (17 << 20), json_


def test_who_somebody_is_comes_before_what_is_wrong(site: Site) -> None:
    wrong = []
    for path, body, headers in odd_requests():
        for user in (None, NOBODY):
            for whole in (True, False):
                sent = dict(headers)
                if user is not None:
                    sent["Authorization"] = "Basic " + base64.b64encode(":".join(user).encode()).decode()
                client = RawClient(site.server.url)
                try:
                    answer = client.send("POST", path, body if whole else iter([body]), sent)
                except BrokenPipeError:
                    continue  # refused while it was sent: the answer is lost, and nothing told
                finally:
                    client.close()
                if answer.status != 401:
                    wrong.append((path, body[:20], len(body), user, whole, answer.status, answer.body[:80]))
    assert not wrong, wrong


def test_metrics_are_for_users_and_for_prometheus(site: Site) -> None:
    def status(user: tuple[str, str] | None = None, **headers: str) -> int:
        return site.send("GET", "/metrics", user, **headers).status

    bearer = f"Bearer {METRICS_TOKEN}"
    assert [status(user) for user in (None, NOBODY, STRANGER)] == [401, 401, 200]
    assert [status(Authorization=given) for given in (bearer, bearer + "x", "Bearer")] == [200, 401, 401]
    assert site.send("GET", "/health", None).status == 200
    with site.without_mlflow():
        assert status(Authorization=bearer) == status(STRANGER) == 200
