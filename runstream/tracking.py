"""The tracking role: a stock MLflow server with Runstream's store plugin."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runstream.settings import TrackingSettings
from schemas.errors import ConfigError


def command(settings: TrackingSettings) -> list[str]:
    """Arguments of ``mlflow`` for these settings."""
    metadata = settings.metadata.get_secret_value()
    arguments = [
        "server",
        "--backend-store-uri",
        metadata,
        "--artifacts-destination",
        settings.artifacts,
        "--host",
        settings.host,
        "--port",
        str(settings.port),
        "--workers",
        "1",
        # Longer than the gateway keeps idle connections: the gateway must be the one that closes them.
        "--uvicorn-opts",
        "--timeout-keep-alive 75 --log-level warning",
    ]
    if settings.allowed_hosts:
        arguments += ["--allowed-hosts", settings.allowed_hosts]
    if settings.cors_allowed_origins:
        arguments += ["--cors-allowed-origins", settings.cors_allowed_origins]
    if settings.static_prefix:
        arguments += ["--static-prefix", settings.static_prefix]
    if settings.basic_auth:
        arguments += ["--app-name", "basic-auth"]
    return arguments


def environment(settings: TrackingSettings) -> dict[str, str]:
    """Variables that switch the plugin on, and MLflow's extras off unless the user set them."""
    chosen = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    return {
        **{name: value for name, value in chosen.items() if name not in os.environ},
        "RUNSTREAM_TRACKING_PLUGIN": "1",
        "RUNSTREAM_GATEWAY_URL": settings.gateway,
        "RUNSTREAM_QUERY_URL": settings.query,
        "RUNSTREAM_INTERNAL_TOKEN": settings.internal_token.get_secret_value(),
    }


def prepare_sqlite(metadata: str) -> None:
    """Switch a SQLite database to write-ahead logging, where readers and the writer do not block each other."""
    path = Path(metadata.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with sqlite3.connect(path, timeout=20) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
    except sqlite3.Error as error:
        raise ConfigError(f"cannot open the metadata database {path}: {error}") from error


def run(settings: TrackingSettings) -> None:
    """Become the MLflow server; does not return.

    ``mlflow server`` prepares its database and then starts uvicorn as a child and waits. With jobs off there is
    nothing left for the waiting process to do, so this process becomes uvicorn instead: one process to watch and
    to stop, and its memory saved once.
    """
    metadata = settings.metadata.get_secret_value()
    if metadata.startswith("sqlite:///"):
        prepare_sqlite(metadata)
    os.environ.update(environment(settings))
    import mlflow.server
    from mlflow.cli import cli

    if os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"].lower() in ("false", "0"):
        mlflow.server._exec_cmd = _become
    cli.main(args=command(settings), prog_name="mlflow", standalone_mode=True)


def _become(arguments: Sequence[str], extra_env: Mapping[str, str] | None = None, **_: Any) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvpe(arguments[0], list(arguments), {**os.environ, **(extra_env or {})})
