"""The shortest way into the spool: ``runstream.start_run`` and ``run.log``, without MLflow."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from runstream.ingest.client import local_runs
from runstream.ingest.client.client import Client, SpoolStatus, all_clients, client_for
from runstream.ingest.client.settings import SpoolSettings, from_environment
from runstream.ingest.client.spool import now_ms, run_folder
from runstream.schemas import frame

_HOME, _SERVER = "~/.runstream", "http://127.0.0.1:5000"


def _settings(spool: str | Path | None) -> SpoolSettings:
    known = from_environment({**os.environ, **({"RUNSTREAM_SPOOL": str(spool)} if spool is not None else {})})
    return known or from_environment({**os.environ, "RUNSTREAM_SPOOL": _HOME})  # type: ignore[return-value]


class Run:
    """A run that this process logs to. Every call returns when what it says is in the spool, and never raises for
    what a server, a network or a disk does. Use it as a context manager, or call ``end``."""

    def __init__(self, client: Client, run_id: str) -> None:
        self.run_id = run_id
        self._client = client
        self._spool = client.spool(run_id)
        self._step = -1

    def log(
        self, metrics: Mapping[str, float], step: int | None = None, timestamp_ms: int | None = None
    ) -> None:
        """Log values at a step; without one, steps count up from 0 by call."""
        if step is None:
            self._step = step = self._step + 1
        now = time.time_ns() // 1_000_000 if timestamp_ms is None else timestamp_ms
        count = len(metrics)
        if count == 1:
            for key, value in metrics.items():
                self._spool.point(key, step, now, value)
            return
        self._spool.several([*metrics], [step] * count, [now] * count, [*metrics.values()])

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Params: their text is stored, and the same again is no error."""
        self._spool.record(frame.PARAMS, {str(key): str(value) for key, value in params.items()})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Tags; the newest of a name stays."""
        self._spool.record(frame.TAGS, {str(key): str(value) for key, value in tags.items()})

    def log_artifact(self, path: str | Path, folder: str = "") -> None:
        """Copy a file into the spool, to be uploaded below ``folder``."""
        source = Path(path)
        target = run_folder(self._client.settings.folder, self.run_id) / "artifacts" / folder / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)

    def flush(self, timeout_s: float | None = None) -> int:
        """Send what is spooled; bytes left after ``timeout_s``."""
        return self._client.flush(timeout_s)

    def end(self, status: str = "FINISHED") -> None:
        """End the run; its status is spooled before anything is sent, for at most some seconds."""
        self._client.status_record(self.run_id, status, now_ms())
        left = self._client.flush()
        if left and not self._client.settings.offline:
            self._client.complain("left", self._client.left_sentence(left))

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        killed = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.end("FINISHED" if kind is None else "KILLED" if killed else "FAILED")


def start_run(
    run_id: str | None = None,
    *,
    experiment: str | None = None,
    name: str | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    parent_run_id: str | None = None,
    uri: str | None = None,
    spool: str | Path | None = None,
) -> Run:
    """Begin a run, or go on with one: ``run_id``, or MLFLOW_RUN_ID as a launcher or a requeued job sets it.

    ``experiment`` is a name (default: MLFLOW_EXPERIMENT_NAME, or MLflow's default experiment), ``uri`` the server
    (default: MLFLOW_TRACKING_URI), ``spool`` a folder (default: RUNSTREAM_SPOOL, or ``~/.runstream``). Nothing is
    asked of the server: the run is created, under the id that it has here, when the spool is sent.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or _SERVER
    client = client_for(uri, _settings(spool))
    given = run_id or os.environ.get("MLFLOW_RUN_ID")
    made = given or client.new_run_id()
    run = Run(client, made)
    if given:
        client.status_record(made, "RUNNING", None)
    else:
        client.spool(made).record(
            frame.CREATE, _creation(client, made, experiment, name, tags, parent_run_id)
        )
        if client.settings.run_key:
            # It may have ended before: in another process with this key.
            client.status_record(made, "RUNNING", None)
    client.running[made] = True
    if params:
        run.log_params(params)
    return run


def create_run(
    run_id: str,
    *,
    experiment: str | None = None,
    name: str | None = None,
    tags: Mapping[str, Any] | None = None,
    uri: str | None = None,
    spool: str | Path | None = None,
) -> None:
    """Spool the creation of a run under an id of your own (32 hexadecimal digits), for others to log to.

    The same id again is the same run. See ``start_run`` for the rest.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or _SERVER
    client = client_for(uri, _settings(spool))
    client.spool(run_id).record(frame.CREATE, _creation(client, run_id, experiment, name, tags, None))
    client.flush()


def _creation(
    client: Client,
    run_id: str,
    experiment: str | None,
    name: str | None,
    tags: Mapping[str, Any] | None,
    parent_run_id: str | None,
) -> dict[str, Any]:
    experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "Default"
    user = os.environ.get("USER") or os.environ.get("USERNAME") or "unknown"
    listed = {
        "mlflow.user": user,
        "mlflow.source.name": sys.argv[0] if sys.argv else "",
        "mlflow.source.type": "LOCAL",
    }
    if parent_run_id:
        listed["mlflow.parentRunId"] = parent_run_id
    if name:
        listed[local_runs.NAME_TAG] = name
    listed.update({str(key): str(value) for key, value in (tags or {}).items()})
    body: dict[str, Any] = {
        "run_id": run_id,
        "experiment_id": os.environ.get("MLFLOW_EXPERIMENT_ID", "0"),
        "user_id": user,
        "start_time": now_ms(),
        "run_name": name or "",
        "tags": [{"key": key, "value": value} for key, value in listed.items()],
    }
    wanted: dict[str, Any] = {"what": "run", "body": body}
    if experiment != "Default" or "MLFLOW_EXPERIMENT_ID" not in os.environ:
        made = local_runs.made_up_experiment(client.settings.folder, experiment)
        wanted["experiment"] = {"id": made["experiment_id"], "name": experiment}
    return wanted


def enable(spool: str | Path | None = None) -> None:
    """Spool what this process logs with MLflow from here on, as RUNSTREAM_SPOOL in the environment would."""
    from runstream.ingest.client import plugin

    plugin.enable(_settings(spool))


def status() -> list[SpoolStatus]:
    """How the spool is doing, for each server that this process logs to."""
    return [client.status() for client in all_clients()]
