"""The stock MLflow client, pointed at the server under test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from support.browser import chromium, new_tab
from support.mlflow_client import Rest

# Read by MLflow when it is imported or first used.
os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="true",
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
    MLFLOW_HTTP_REQUEST_TIMEOUT="60",
    MLFLOW_REQUIREMENTS_INFERENCE_RAISE_ERRORS="false",
    GIT_PYTHON_REFRESH="quiet",
)


@pytest.fixture(scope="session")
def tracking_uri(runstream_url: str) -> Iterator[str]:
    """The server's address, set in MLflow as well."""
    import mlflow

    mlflow.set_tracking_uri(runstream_url)
    mlflow.set_registry_uri(runstream_url)
    yield runstream_url
    mlflow.flush_async_logging()


@pytest.fixture(scope="session")
def client(tracking_uri: str):  # type: ignore[no-untyped-def]  # MLflow's types are not looked at
    """MLflow's own client."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri)


@pytest.fixture(scope="session")
def rest(tracking_uri: str) -> Iterator[Rest]:
    """The bare REST API."""
    with Rest(tracking_uri) as session:
        yield session


@pytest.fixture(scope="module")
def experiment_id(client, request: pytest.FixtureRequest) -> str:  # type: ignore[no-untyped-def]
    """One experiment for all tests of a module; runs are resumed only in MLflow's active one, so it is that too."""
    import mlflow

    name = f"{request.module.__name__.rpartition('.')[2]}-{uuid.uuid4().hex[:8]}"
    created: str = client.create_experiment(name)
    mlflow.set_experiment(experiment_id=created)
    return created


@pytest.fixture
def run_id(client, experiment_id: str) -> str:  # type: ignore[no-untyped-def]
    """A new run."""
    created: str = client.create_run(experiment_id).info.run_id
    return created


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser; without one its tests are skipped."""
    with chromium() as started:
        yield started


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A tab that must not complain: neither errors of the page nor breaches of its policy."""
    page = new_tab(browser)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if "Policy" in message.text else None)
    yield page
    page.context.close()
    assert not complaints
