"""``runstream serve`` with a certificate: stock clients, the page's own routes, the parts among themselves, renewal."""

from __future__ import annotations

import socket
import ssl
import time
import urllib.request
import uuid
from pathlib import Path

import mlflow
import pytest
import requests
from cryptography import x509

import runstream
from support.certificates import Authority
from support.runstream_server import RunstreamServer

_DEADLINE_S = 60.0


def test_everything_is_there_over_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    authority.issue(cert, key)
    environment = {
        "RUNSTREAM_TLS_CERT_FILE": str(cert),
        "RUNSTREAM_TLS_KEY_FILE": str(key),
        "RUNSTREAM_TLS_HSTS_S": "600",
    }
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(authority.file))
    with RunstreamServer(tmp_path / "data", workers=2, environment=environment) as server:
        assert server.url.startswith("https://")
        client = mlflow.MlflowClient(server.url)
        experiment = client.create_experiment(uuid.uuid4().hex)
        run = client.create_run(experiment).info.run_id
        for step in range(20):
            client.log_metric(run, "loss", 1 / (step + 1), step=step)
        # Goes to the MLflow server, whose plugin hands the point to a gateway.
        model = client.create_logged_model(experiment, source_run_id=run)
        client.log_metric(run, "score", 0.5, model_id=model.model_id)
        client.log_text(run, "words" * 1_000_000, "notes.txt")
        assert client.get_run(run).data.metrics == {"loss": 1 / 20, "score": 0.5}
        assert [m.step for m in client.get_metric_history(run, "loss")] == list(range(20))
        assert [m.value for m in client.get_metric_history(run, "score")] == [0.5]
        assert len(Path(client.download_artifacts(run, "notes.txt", str(tmp_path))).read_text()) == 5_000_000
        with runstream.connect(server.url) as connection:
            assert len(connection.get_metrics(run)) == 21
        page = requests.get(f"{server.url}/runstream/", verify=str(authority.file), timeout=30)
        assert page.status_code == 200
        assert page.headers["Strict-Transport-Security"] == "max-age=600"
        headers = {"Origin": server.url, "Accept": "application/json"}
        asked = {"query": "SELECT count() AS points FROM metrics"}
        sql = f"{server.url}/api/1.0/runstream/sql"
        answer = requests.post(sql, json=asked, headers=headers, verify=str(authority.file), timeout=30)
        assert answer.status_code == 200
        assert "21" in answer.text
        with pytest.raises(OSError):
            urllib.request.urlopen(server.url.replace("https", "http") + "/health", timeout=30)

        serial = authority.issue(cert, key)
        deadline = time.monotonic() + _DEADLINE_S
        # Both gateways answer on the port: it takes a number of connections to have met both.
        met = 0
        while met < 20:
            met = met + 1 if _shown(server.port, authority) == serial else 0
            assert time.monotonic() < deadline
        assert client.get_run(run).data.metrics["loss"] == 1 / 20


def _shown(port: int, authority: Authority) -> int:
    client = ssl.create_default_context(cafile=str(authority.file))
    with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
        with client.wrap_socket(plain, server_hostname="localhost") as secure:
            shown = secure.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number
