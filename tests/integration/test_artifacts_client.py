"""The stock MLflow client and its artifacts on every kind of store, through the gateway's routes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

from runstream.ingest.gateway.artifacts.config import ArtifactConfig
from support import s3
from support.artifact_gateway import ArtifactGateway
from support.stock import StockServer, stock_server

SCENARIO = Path(__file__).parents[1] / "support" / "artifact_scenario.py"
SCENARIO_TIMEOUT_S = 280


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StockServer]:
    with stock_server(tmp_path_factory.mktemp("stock")) as server:
        yield server


def run_scenario(servers: list[dict[str, str]], environment: dict[str, str]) -> None:
    finished = subprocess.run(
        [sys.executable, str(SCENARIO), json.dumps(servers)],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")},
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": str(6 << 20),
            "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE": str(5 << 20),
            "MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE": str(4 << 20),
            "GIT_PYTHON_REFRESH": "quiet",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=SCENARIO_TIMEOUT_S,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-6000:]
    assert finished.stdout.count("fine:") == len(servers)


@pytest.mark.slow
def test_every_way_of_the_client(tmp_path: Path, stock: StockServer, s3_server: s3.S3Server) -> None:
    """A folder; S3 streamed through the gateway; S3 with signed addresses; S3 past the server."""
    environment = s3_server.access.environment()
    bucket = s3_server.access.bucket
    with (
        ArtifactGateway(
            tmp_path / "folder", ArtifactConfig(url=f"file://{tmp_path}/artifacts"), tracking_url=stock.url
        ) as folder,
        ArtifactGateway(
            tmp_path / "streamed",
            ArtifactConfig(url=f"s3://{bucket}/streamed", direct=False, part_bytes=5 << 20),
            tracking_url=stock.url,
            environment=environment,
        ) as streamed,
        ArtifactGateway(
            tmp_path / "direct",
            ArtifactConfig(url=f"s3://{bucket}/direct"),
            tracking_url=stock.url,
            environment=environment,
        ) as direct,
    ):
        for gateway, signs in ((folder, False), (streamed, False), (direct, True)):
            info = requests.get(f"{gateway.url}/api/3.0/mlflow/server-info", timeout=20).json()
            assert info["store_type"] == "SqlStore"
            assert (info["multipart_uploads_enabled"], info["multipart_downloads_enabled"]) == (signs, signs)
        run_scenario(
            [
                {"url": folder.url},
                {"url": streamed.url},
                {"url": direct.url},
                {"url": direct.url, "direct_location": f"s3://{bucket}/past"},
            ],
            environment,
        )
        for gateway in (folder, streamed, direct):
            log = gateway.log()
            assert s3_server.access.secret_key not in log
            assert s3_server.access.access_key not in log
            assert "Traceback" not in log
            assert not list((gateway.log_path.parent / "tmp").iterdir()), "a copy on disk"
    keys = s3_server.keys()
    for place in ("streamed/", "direct/", "past/"):
        assert any(
            (key.startswith(place) and key.endswith("/doubler/MLmodel")) or "/MLmodel" in key for key in keys
        )
        assert any(key.startswith(place) and key.endswith("tree/big.bin") for key in keys)
    assert s3_server.unfinished_uploads() == []
    assert any((tmp_path / "artifacts").rglob("big.bin"))


@pytest.fixture
def parts_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables with which users make the client send parts and fetch from signed addresses."""
    for name, value in {
        "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "true",
        "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "true",
        "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": str(6 << 20),
        "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE": str(5 << 20),
        "MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE": str(4 << 20),
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }.items():
        monkeypatch.setenv(name, value)


def repository(gateway: ArtifactGateway) -> MlflowArtifactsRepository:
    return MlflowArtifactsRepository("mlflow-artifacts:/0/parts/artifacts", tracking_uri=gateway.url)


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_parts_when_asked_for(
    kind: str, tmp_path: Path, s3_server: s3.S3Server, parts_asked_for: None
) -> None:
    """S3 takes the parts itself; a folder says that it takes none, and the client sends the file as a whole."""
    url = f"s3://{s3_server.access.bucket}/parts" if kind == "s3" else f"file://{tmp_path}/artifacts"
    data = os.urandom(12 << 20)
    (tmp_path / "big.bin").write_bytes(data)
    environment = s3_server.access.environment()
    with ArtifactGateway(tmp_path / "gateway", ArtifactConfig(url=url), environment=environment) as gateway:
        client = repository(gateway)
        client.log_artifact(str(tmp_path / "big.bin"), "d")
        (tmp_path / "got").mkdir()
        got = client.download_artifacts("d/big.bin", str(tmp_path / "got"))
        assert Path(got).read_bytes() == data
        if kind == "s3":
            assert s3_server.parts("parts/0/parts/artifacts/d/big.bin") == 3


def test_the_client_aborts_what_it_cannot_send(
    tmp_path: Path, s3_server: s3.S3Server, parts_asked_for: None
) -> None:
    nowhere = ArtifactConfig(
        url=f"s3://{s3_server.access.bucket}/aborted", public_endpoint="http://127.0.0.1:9"
    )
    (tmp_path / "big.bin").write_bytes(bytes(12 << 20))
    environment = s3_server.access.environment()
    with ArtifactGateway(tmp_path / "gateway", nowhere, environment=environment) as gateway:
        with pytest.raises(MlflowException, match="at least one part"):
            repository(gateway).log_artifact(str(tmp_path / "big.bin"), "d")
    assert s3_server.keys("aborted") == []
    assert s3_server.unfinished_uploads() == []
