"""Artifacts of an MLflow server that knows users: nobody gets or puts through the gateway what MLflow refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from runstream.ingest.gateway.artifacts.config import ArtifactConfig
from support.artifact_gateway import ArtifactGateway
from support.stock import StockServer

API = "/api/2.0/mlflow-artifacts"
ADMIN = ("admin", "a-long-enough-password")
READER = ("reader", "another-long-password")
STRANGER = ("stranger", "a-third-long-password")


class UsersServer(StockServer):
    """A stock server with ``--app-name basic-auth``; nobody but the administrator may do anything at first."""

    def _command(self, port: int) -> list[str]:
        config = self.folder / "auth.ini"
        config.write_text(
            "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
            f"database_uri = sqlite:///{self.folder / 'auth.db'}\n"
            f"admin_username = {ADMIN[0]}\nadmin_password = {ADMIN[1]}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        variables = self.folder / "variables"
        variables.write_text(
            f"MLFLOW_AUTH_CONFIG_PATH={config}\nMLFLOW_FLASK_SERVER_SECRET_KEY=for-this-test\n"
        )
        command = super()._command(port)
        at = command.index("server")
        return [*command[:at], "--env-file", str(variables), *command[at:], "--app-name=basic-auth"]


class Site:
    """The gateway, a run, and users: one who may read its experiment and one who may not."""

    def __init__(self, gateway: str, server: str) -> None:
        self.gateway = gateway
        api = f"{server}/api/2.0/mlflow"
        with requests.Session() as admin:
            admin.auth = ADMIN
            experiment = admin.post(f"{api}/experiments/create", json={"name": "private"}, timeout=30).json()
            self.experiment = experiment["experiment_id"]
            run = admin.post(f"{api}/runs/create", json={"experiment_id": self.experiment}, timeout=30).json()
            self.run = run["run"]["info"]["run_id"]
            for name, password in (READER, STRANGER):
                body = {"username": name, "password": password}
                admin.post(f"{api}/users/create", json=body, timeout=30).raise_for_status()
            right = {
                "username": READER[0],
                "resource_type": "experiment",
                "resource_id": self.experiment,
                "permission": "READ",
            }
            grant = f"{server}/api/3.0/mlflow/users/permissions/grant"
            admin.post(grant, json=right, timeout=30).raise_for_status()
        self.file = f"{self.experiment}/{self.run}/artifacts/f.txt"

    def send(self, method: str, path: str, user: tuple[str, str] | None, **more: object) -> requests.Response:
        return requests.request(method, self.gateway + path, auth=user, timeout=30, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("users")
    server = UsersServer(folder / "stock")
    server.start()
    try:
        config = ArtifactConfig(url=f"file://{folder}/stock/artifacts")
        with ArtifactGateway(folder / "gateway", config, tracking_url=server.url, users=True) as gateway:
            yield Site(gateway.url, server.url)
    finally:
        server.stop()


def test_who_may_write(site: Site) -> None:
    path = f"{API}/artifacts/{site.file}"
    for user, status in (
        (None, 401),
        (("admin", "wrong-password"), 401),
        (STRANGER, 403),
        (READER, 403),
        (ADMIN, 200),
    ):
        answer = site.send("PUT", path, user, data=b"content")
        assert answer.status_code == status, (user, answer.text)
    assert "WWW-Authenticate" in site.send("PUT", path, None, data=b"x").headers
    # What was allowed to one caller is not allowed to another.
    assert site.send("PUT", path, STRANGER, data=b"evil").status_code == 403
    assert site.send("GET", path, ADMIN).content == b"content"


@pytest.mark.parametrize("end", ["mlflow/server-info", "mlflow-artifacts/artifacts", "get-artifact"])
@pytest.mark.parametrize("mine", ["", "?path="])
def test_the_end_of_a_path_gives_no_right(site: Site, end: str, mine: str) -> None:
    path = f"{site.file}/{end}"
    query = mine and mine + site.file.removesuffix("/f.txt")
    for user, statuses in ((None, {401}), (STRANGER, {403})):
        for method in ("PUT", "GET", "DELETE"):
            answer = site.send(method, f"{API}/artifacts/{path}{query}", user, data=b"evil")
            assert answer.status_code in statuses, (method, path, answer.text)
        for route in ("mpu/create", "mpu/complete", "mpu/abort"):
            answer = site.send("POST", f"{API}/{route}/{path}{query}", user, json={"path": "f"})
            assert answer.status_code in statuses, (route, path, answer.text)
        assert site.send("GET", f"{API}/presigned/{path}{query}", user).status_code in statuses
    # Who may read a directory of one run may not write for that in another.
    answer = site.send("PUT", f"{API}/artifacts/{path}{query}", READER, data=b"evil")
    assert answer.status_code == 403


def test_who_may_read(site: Site) -> None:
    site.send("PUT", f"{API}/artifacts/{site.file}", ADMIN, data=b"content").raise_for_status()
    folder = site.file.removesuffix("/f.txt")
    for path in (
        f"{API}/artifacts/{site.file}",
        f"{API}/artifacts/{site.file.replace(site.experiment, f'%25{ord(site.experiment[0]):x}', 1)}",
        f"{API}/artifacts?path={folder}",
        f"/get-artifact?run_id={site.run}&path=f.txt",
        f"/api/2.0/mlflow/artifacts/list?run_id={site.run}",
    ):
        for user, statuses in ((ADMIN, {200}), (READER, {200}), (STRANGER, {403}), (None, {401})):
            answer = site.send("GET", path, user)
            assert answer.status_code in statuses, (path, user, answer.text)
    assert site.send("GET", f"{API}/presigned/{site.file}", READER).status_code == 501
    assert site.send("GET", f"{API}/presigned/{site.file}", STRANGER).status_code == 403


def test_who_may_delete_and_send_parts(site: Site) -> None:
    path = f"{site.file}.deleted"
    site.send("PUT", f"{API}/artifacts/{path}", ADMIN, data=b"content").raise_for_status()
    for user, status in ((None, 401), (STRANGER, 403), (READER, 403), (ADMIN, 200)):
        parts = site.send("POST", f"{API}/mpu/create/{path}", user, json={"path": "f", "num_parts": 1})
        assert parts.status_code == (501 if status == 200 else status), (user, parts.text)
        assert site.send("DELETE", f"{API}/artifacts/{path}", user).status_code == status
    assert site.send("GET", f"{API}/artifacts/{path}", ADMIN).status_code == 404


def test_the_page_is_mlflows_matter(site: Site) -> None:
    upload = f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={site.run}&path=u.txt"
    for user, status in ((None, 401), (STRANGER, 403), (READER, 403), (ADMIN, 200)):
        assert site.send("POST", upload, user, data=b"x").status_code == status
    assert site.send("GET", "/api/3.0/mlflow/server-info", ADMIN).json()["multipart_uploads_enabled"] is False


def test_paths_that_leave_the_root_are_refused_to_everybody(site: Site) -> None:
    for user in (None, STRANGER, ADMIN):
        assert site.send("GET", f"{API}/artifacts/%2e%2e/auth.db", user).status_code in (400, 401)
