"""Fixtures of the failure tests: servers of their own, which may be killed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.mlflow_client import Rest
from support.runstream_server import RunstreamServer

ServerFactory = Callable[..., RunstreamServer]

os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[ServerFactory]:
    """Makes servers (not started yet) whose processes are all gone at the end of the test."""
    made: list[RunstreamServer] = []

    def make(data_dir: Path | None = None, **options: object) -> RunstreamServer:
        server = RunstreamServer(data_dir or tmp_path / f"data-{len(made)}", **options)  # type: ignore[arg-type]
        made.append(server)
        return server

    yield make
    for server in made:
        server.kill()


@pytest.fixture(scope="session")
def new_runs() -> Callable[..., list[str]]:
    """Creates runs in a new experiment of a server and returns their ids."""

    def create(url: str, count: int) -> list[str]:
        with Rest(url) as rest:
            name = f"failure-{uuid.uuid4().hex}"
            experiment = rest.post("api/2.0/mlflow/experiments/create", {"name": name})["experiment_id"]
            return [
                rest.post("api/2.0/mlflow/runs/create", {"experiment_id": experiment})["run"]["info"][
                    "run_id"
                ]
                for _ in range(count)
            ]

    return create
