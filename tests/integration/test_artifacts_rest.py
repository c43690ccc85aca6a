"""The same artifact requests to the gateway's routes and to a stock MLflow server: the answers are equal."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import requests

from runstream.ingest.gateway.artifacts.config import ArtifactConfig
from support.artifact_gateway import ArtifactGateway
from support.stock import StockServer, stock_server

API = "/api/2.0/mlflow-artifacts"
AJAX = "/ajax-api/2.0/mlflow-artifacts"
RUN = "0/r/artifacts"


@dataclass(frozen=True)
class Pair:
    """Both servers, each with a store of its own, and a run of the MLflow server that stands behind both."""

    gateway: str
    stock: str
    run_id: str
    model_id: str


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("rest")
    server: StockServer
    with (
        stock_server(folder / "stock") as server,
        ArtifactGateway(
            folder / "gateway", ArtifactConfig(url=f"file://{folder}/artifacts"), tracking_url=server.url
        ) as gateway,
    ):
        api = f"{server.url}/api/2.0/mlflow"
        run_id = requests.post(f"{api}/runs/create", json={"experiment_id": "0"}, timeout=30).json()["run"][
            "info"
        ]["run_id"]
        model = requests.post(
            f"{api}/logged-models", json={"experiment_id": "0", "name": "m"}, timeout=30
        ).json()
        model_id = model["model"]["info"]["model_id"]
        for url in (gateway.url, server.url):
            for path, data in {
                f"{RUN}/a.txt": b"hello world",
                f"{RUN}/empty.bin": b"",
                f"{RUN}/sub/ü &.html": b"<p>",
                f"{RUN}/sub/deep/x.json": b"{}",
                f"{RUN}/100%.txt": b"percent",
                f"0/{run_id}/artifacts/d/t.txt": b"hello",
                f"0/{run_id}/artifacts/empty.txt": b"",
                f"0/models/{model_id}/artifacts/MLmodel": b"flavors:",
            }.items():
                assert (
                    requests.put(f"{url}{API}/artifacts/{quote(path)}", data=data, timeout=30).status_code
                    == 200
                )
        yield Pair(gateway.url, server.url, run_id, model_id)


def send(base: str, method: str, target: str, body: bytes | None, headers: dict[str, str]) -> tuple[Any, ...]:
    """What a client can tell apart: status, body (decoded), and the headers that matter."""
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=30)
    try:
        connection.request(method, target, body=body, headers=headers)
        answer = connection.getresponse()
        content: Any = answer.read()
        with contextlib.suppress(ValueError):
            content = json.loads(content)
        if isinstance(content, dict) and "files" in content:
            content["files"] = sorted(content["files"], key=lambda file: str(file["path"]))
        kept = ("Content-Type", "Content-Disposition", "Content-Range", "X-Content-Type-Options")
        return answer.status, content, {name: answer.headers.get(name) for name in kept}
    finally:
        connection.close()


def get(path: str, **headers: str) -> tuple[str, str, bytes | None, dict[str, str]]:
    return "GET", path, None, {name.replace("_", "-"): value for name, value in headers.items()}


def post(path: str, body: Any) -> tuple[str, str, bytes | None, dict[str, str]]:
    return "POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"}


EQUAL = [
    *(
        get(f"{api}/artifacts/{RUN}/{name}")
        for api in (API, AJAX)
        for name in (
            *("a.txt", "empty.bin", "sub/%C3%BC%20&.html", "sub/%25C3%25BC%2520&.html", "100%25.txt"),
            *(
                "missing",
                "missing/deep",
                "sub",
                "a%23b",
                "sub/deep/x.json",
                "sub//deep/x.json",
                "sub/%2e/deep/x.json",
            ),
            *("%2e%2e/x", "%252e%252e/x", "..%2fx", "%2e%2e%2f%2e%2e%2fx", "..%252fx", "%2e%2e"),
        )
    ),
    get(f"{API}/artifacts/%2fetc%2fpasswd"),
    get(f"{API}/artifacts/%252fetc%252fpasswd"),
    get(f"{API}/artifacts/C:%5cx"),
    get(f"{API}/artifacts/file:%2f%2f%2fetc%2fpasswd"),
    *(
        get(f"{API}/artifacts/{RUN}/a.txt", Range=value)
        for value in ("bytes=0-3", "bytes=-3", "bytes=6-", "bytes=6-100", "bytes=-100", "bytes=0-0")
    ),
    get(f"{API}/artifacts/{RUN}/a.txt", Range="bytes=0-3", If_Range='"other"'),
    *(
        get(f"{api}/artifacts{query}")
        for api in (API, AJAX)
        for query in (
            *(f"?path={RUN}", f"?path={RUN}/", f"?path={RUN}/sub", f"?path={RUN}/a.txt", "?path=nope"),
            *(
                "?path=../x",
                "?path=%2e%2e",
                "?path=%252e%252e",
                "?path=/etc",
                "?path=a%23b",
                f"?path={RUN}//sub",
            ),
            f"?path={quote(RUN, safe='')}",
        )
    ),
    ("PUT", f"{API}/artifacts/{RUN}/new%20file.txt", b"new", {}),
    ("PUT", f"{API}/artifacts/{RUN}/new%20file.txt", b"newer", {}),
    get(f"{API}/artifacts/{RUN}/new%20file.txt"),
    ("PUT", f"{API}/artifacts/{RUN}/sub/", b"x", {}),
    ("PUT", f"{API}/artifacts/", b"x", {}),
    ("PUT", f"{API}/artifacts/%2e%2e/x", b"x", {}),
    ("PUT", f"{API}/artifacts/{RUN}/.artifact.uploading.x", b"x", {}),
    ("PUT", f"{API}/artifacts/double//slash", b"x", {}),
    get(f"{API}/artifacts/double/slash"),
    ("DELETE", f"{API}/artifacts/0/never", None, {}),
    ("DELETE", f"{API}/artifacts/%2e%2e/x", None, {}),
    ("DELETE", f"{API}/artifacts/double", None, {}),
    get(f"{API}/artifacts?path=double"),
    ("POST", f"{API}/artifacts/0/x", b"x", {}),
    ("DELETE", f"{API}/artifacts", None, {}),
    post(f"{API}/mpu/create/{RUN}", {"path": "x", "num_parts": 2}),
    post(f"{API}/mpu/create/{RUN}", {}),
    post(f"{API}/mpu/create/%2e%2e", {"path": "x", "num_parts": 2}),
    post(f"{API}/mpu/create", {"path": "x"}),
    post(
        f"{API}/mpu/complete/{RUN}",
        {"path": "x", "upload_id": "u", "parts": [{"part_number": 1, "etag": "e"}]},
    ),
    post(f"{API}/mpu/abort/{RUN}", {"path": "x", "upload_id": "u"}),
    post(f"{AJAX}/mpu/create/{RUN}", {"path": "x", "num_parts": 2}),
    get(f"{API}/presigned/{RUN}/a.txt"),
    get(f"{API}/presigned/%2e%2e/a.txt"),
    get("/api/3.0/mlflow/server-info"),
    get("/ajax-api/3.0/mlflow/server-info"),
]


@pytest.mark.parametrize("request_", EQUAL, ids=lambda request_: f"{request_[0]} {request_[1]}")
def test_proxy_routes_equal_stock(
    pair: Pair, request_: tuple[str, str, bytes | None, dict[str, str]]
) -> None:
    if "server-info" in request_[1]:
        ours, stock = (send(base, *request_) for base in (pair.gateway, pair.stock))
        assert (ours[0], ours[1]) == (stock[0], stock[1])
        return
    assert send(pair.gateway, *request_) == send(pair.stock, *request_)


PAGES = [
    "/get-artifact?run_id={run}&path=d/t.txt",
    "/get-artifact?run_uuid={run}&path=d%2Ft.txt",
    "/get-artifact?run_uuid={run}&path=empty.txt",
    "/get-artifact?run_id={run}&path=d",
    "/get-artifact?run_id={run}&path=nope",
    "/get-artifact?run_id={run}",
    "/get-artifact?run_id=0{run}&path=a",
    "/get-artifact?path=a",
    "/get-artifact?run_id={run}&path=../a",
    "/get-artifact?run_id={run}&path=%252e%252e/a",
    "/api/2.0/mlflow/artifacts/list?run_id={run}",
    "/ajax-api/2.0/mlflow/artifacts/list?run_uuid={run}&path=d",
    "/ajax-api/2.0/mlflow/artifacts/list?run_id={run}&path=d/t.txt",
    "/api/2.0/mlflow/artifacts/list?run_id={run}&path=nope",
    "/api/2.0/mlflow/artifacts/list?run_id=0{run}",
    "/api/2.0/mlflow/artifacts/list?path=d",
    "/api/2.0/mlflow/artifacts/list?run_id={run}&path=../d",
    "/ajax-api/2.0/mlflow/logged-models/{model}/artifacts/files?artifact_file_path=MLmodel",
    "/ajax-api/2.0/mlflow/logged-models/{model}/artifacts/files?artifact_file_path=nope",
    "/ajax-api/2.0/mlflow/logged-models/{model}/artifacts/files?artifact_file_path=../x",
    "/ajax-api/2.0/mlflow/logged-models/{model}/artifacts/files",
    "/ajax-api/2.0/mlflow/logged-models/x{model}/artifacts/files?artifact_file_path=x",
    "/api/2.0/mlflow/logged-models/{model}/artifacts/files?artifact_file_path=MLmodel",
    "/model-versions/get-artifact?name=none&version=1&path=x",
]


@pytest.mark.parametrize("target", PAGES)
def test_page_routes_equal_stock(pair: Pair, target: str) -> None:
    target = target.format(run=pair.run_id, model=pair.model_id)
    assert send(pair.gateway, "GET", target, None, {}) == send(pair.stock, "GET", target, None, {})


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("run_uuid={run}&path=u/v.txt", b"hi"),
        ("run_uuid={run}&path=u/v.txt", b""),
        ("run_uuid={run}", b"hi"),
        ("path=x", b"hi"),
        ("run_uuid=0{run}&path=x", b"hi"),
        ("run_uuid={run}&path=../x", b"hi"),
        ("run_uuid={run}&path=x", b"h" * ((10 << 20) + 1)),
    ],
)
def test_the_pages_upload_equals_stock(pair: Pair, query: str, body: bytes) -> None:
    target = f"/ajax-api/2.0/mlflow/upload-artifact?{query.format(run=pair.run_id)}"
    headers = {"Content-Type": "application/octet-stream"}
    assert send(pair.gateway, "POST", target, body, headers) == send(
        pair.stock, "POST", target, body, headers
    )
    listing = f"/api/2.0/mlflow/artifacts/list?run_id={pair.run_id}&path=u"
    assert send(pair.gateway, "GET", listing, None, {}) == send(pair.stock, "GET", listing, None, {})


@pytest.mark.parametrize("name", ["a.txt", "sub", "missing"])
def test_head_equals_get_without_a_body(pair: Pair, name: str) -> None:
    status, _, headers = send(pair.gateway, "GET", f"{API}/artifacts/{RUN}/{name}", None, {})
    head = send(pair.gateway, "HEAD", f"{API}/artifacts/{RUN}/{name}", None, {})
    assert (head[0], head[2]) == (status, headers)
    assert head[1] == b""


def test_where_stock_answers_500_to_bad_input(pair: Pair) -> None:
    for path in (f"{RUN}/sub", f"{RUN}/a.txt/below", f"{RUN}/" + "n" * 300, f"{RUN}/%2e/x"):
        status, content, _ = send(pair.gateway, "PUT", f"{API}/artifacts/{path}", b"x", {})
        assert status == 400, (path, content)
        assert send(pair.stock, "PUT", f"{API}/artifacts/{path}", b"x", {})[0] == 500


def test_a_model_version_logged_by_a_run(pair: Pair) -> None:
    api = f"{pair.stock}/api/2.0/mlflow"
    requests.post(f"{api}/registered-models/create", json={"name": "rm"}, timeout=30).raise_for_status()
    version = {"name": "rm", "source": f"runs:/{pair.run_id}/d", "run_id": pair.run_id}
    requests.post(f"{api}/model-versions/create", json=version, timeout=30).raise_for_status()
    target = "/model-versions/get-artifact?name=rm&version=1&path=t.txt"
    assert send(pair.gateway, "GET", target, None, {})[:2] == (200, b"hello")


def test_the_root_cannot_be_deleted(pair: Pair) -> None:
    for target in (".", "%2e", "./", "a/%2e%2e"):
        assert send(pair.gateway, "DELETE", f"{API}/artifacts/{target}", None, {})[0] in (400, 404)
    assert send(pair.gateway, "GET", f"{API}/artifacts/{RUN}/a.txt", None, {})[0] == 200


def test_other_origins_and_hosts_are_mlflows_matter(pair: Pair) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        request_ = ("PUT", f"{API}/artifacts/{RUN}/evil", b"x", headers)
        ours, stock = send(pair.gateway, *request_), send(pair.stock, *request_)
        assert (ours[0], ours[1]) == (stock[0], stock[1]) == (403, stock[1])
    assert send(pair.gateway, "GET", f"{API}/artifacts/{RUN}/evil", None, {})[0] == 404


def test_store_is_private_to_the_folder(pair: Pair, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for depth in range(1, 12):
        for dots in (
            "..",
            "%2e%2e",
            "%252e%252e",
            ".%2e",
            "..%5c",
            "%c0%ae%c0%ae",
            "．．",
            "%EF%BC%8E%EF%BC%8E",
        ):
            up = "/".join([dots] * depth)
            target = f"{API}/artifacts/{quote(up, safe='%')}/{str(secret).lstrip('/')}"
            status, content, _ = send(pair.gateway, "GET", target, None, {})
            assert status in (400, 404), target
            assert content != b"secret"
