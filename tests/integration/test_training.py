"""The example that a newcomer runs: a real training, then its model answering a request."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
STEPS = int(os.environ.get("RUNSTREAM_TEST_TRAINING_STEPS", "60"))
TIMEOUT_S = 600.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def trained(tracking_uri: str) -> dict[str, str]:
    """Runs the example; what its last line says."""
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "examples" / "train_digits.py")),
            *("--tracking-uri", tracking_uri, "--steps", str(STEPS), "--experiment", "train-digits-test"),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(re.findall(r"(\w+)=(\S+)", done.stdout.splitlines()[-1]))


def test_every_step_is_there(client: MlflowClient, trained: dict[str, str]) -> None:
    run = client.get_run(trained["run_id"])
    assert run.info.status == "FINISHED"
    assert len(run.data.metrics) >= 20
    for key, newest in run.data.metrics.items():
        history = client.get_metric_history(run.info.run_id, key)
        assert [metric.step for metric in history] == list(range(STEPS)), key
        assert history[-1].value == newest
    assert run.data.metrics["test/accuracy"] > 0.8


def test_autologged_run(client: MlflowClient, trained: dict[str, str]) -> None:
    run = client.get_run(trained["autologged_run_id"])
    assert run.data.metrics["training_accuracy_score"] > 0.9
    assert "logisticregression__max_iter" in run.data.params


def test_model_answers_a_request(tracking_uri: str, trained: dict[str, str], tmp_path: Path) -> None:
    images, labels = load_digits(return_X_y=True)
    with serving(trained["model_uri"], tracking_uri, tmp_path / "serve.log") as url:
        answer = requests.post(f"{url}/invocations", json={"inputs": (images[:20] / 16).tolist()}, timeout=60)
    assert answer.status_code == 200, answer.text
    guesses = answer.json()["predictions"]
    assert sum(guess == label for guess, label in zip(guesses, labels[:20], strict=True)) >= 18


@contextmanager
def serving(model_uri: str, tracking_uri: str, log: Path) -> Iterator[str]:
    """``mlflow models serve`` on a free port, ended with all its processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", model_uri),
                *("--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            # It starts uvicorn by its name.
            env={**os.environ, "MLFLOW_TRACKING_URI": tracking_uri, "PATH": f"{BIN}:{os.environ['PATH']}"},
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + TIMEOUT_S / 4
        while not pings(url):
            assert process.poll() is None, log.read_text(errors="replace")[-4000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-4000:]
            time.sleep(0.2)
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def pings(url: str) -> bool:
    """Whether the model server is up."""
    try:
        return requests.get(f"{url}/ping", timeout=5).status_code == 200
    except requests.RequestException:
        return False
