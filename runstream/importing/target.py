"""A Runstream server as the target of imports, by its REST API alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np

from runstream.importing.sources import LegalNames, SourceExperiment, SourceRun
from runstream.ingest.client.artifacts import upload
from runstream.ingest.client.creation import create, experiment
from runstream.ingest.client.link import INGEST, MLFLOW, AwayError, DeniedError, Link, RefusedError
from runstream.ingest.client.rest_batches import log_batch
from runstream.schemas import frame
from runstream.schemas.errors import RunstreamError
from runstream.schemas.frame import Columns
from runstream.schemas.record import PointColumns

T = TypeVar("T")
_REQUEST_POINTS = 200_000
_FRAME_POINTS = 20_000
_PATIENCE_S = 300.0
_MOST_ENTRIES = 100
_MOST_PARAM = 6_000
# On experiments that were made by an import, of a source that has deleted them.
_TO_DELETE = "runstream.deleted_in_source"


class TargetError(RunstreamError):
    """The server cannot be reached for a long time, or refuses."""


class Target:
    """One server. Waits for it while it is away, up to five minutes. Raises ``TargetError``."""

    def __init__(self, uri: str) -> None:
        self._link = Link(uri)
        if not self.call(self._link.offers):
            raise TargetError(f"{uri} is no Runstream server")
        self._experiments: dict[str, str] = {}
        self._own: set[str] = set()

    def call(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do this, and again while the server is away."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return work(*arguments)
            except AwayError as error:
                if time.monotonic() + error.after_s > deadline:
                    raise TargetError(f"the server {error}") from error
                time.sleep(max(error.after_s, 0.5))
            except DeniedError as error:
                raise TargetError(f"the server does not accept the credentials: {error}") from error
            except RefusedError as error:
                raise TargetError(f"the server refuses: {error}") from error

    def create(self, run: SourceRun) -> None:
        """Make the run under its id, unless it is there."""
        if run.experiment not in self._experiments:
            self._experiments[run.experiment] = self.call(experiment, self._link, run.experiment, {})
        body = {
            "run_id": run.run_id,
            "experiment_id": self._experiments[run.experiment],
            "run_name": run.name,
            "start_time": run.start_time or 0,
            "tags": [],
        }
        renamed: dict[str, str] = {}
        answer = self.call(create, self._link, {"what": "run", "body": body}, renamed)
        if renamed.get(run.run_id, run.run_id) != run.run_id:
            raise TargetError("the server does not create runs under given ids")
        if run.deleted and answer["run"]["info"].get("lifecycle_stage") == "deleted":
            # Brought before, and not noted: it takes nothing while it is deleted.
            self.call(self._link.call, "POST", f"{MLFLOW}/runs/restore", {"run_id": run.run_id})

    def prepare(self, wanted: SourceExperiment, waiting: bool) -> None:
        """Make the experiment with its tags, or bring a deleted one back while runs of it are ``waiting`` to come."""
        found = self.call(self._find_experiment, wanted.name)
        if found is None:
            tags = [{"key": _TO_DELETE, "value": "true"}] if wanted.deleted else []
            place = self.call(experiment, self._link, wanted.name, {"tags": tags})
            self._own |= {wanted.name} if wanted.deleted else set()
        else:
            place = str(found["experiment_id"])
            tagged = any(tag["key"] == _TO_DELETE for tag in found.get("tags", []))
            self._own |= {wanted.name} if tagged else set()
            if found.get("lifecycle_stage") == "deleted":
                if wanted.deleted and not waiting:
                    return
                self.call(self._link.call, "POST", f"{MLFLOW}/experiments/restore", {"experiment_id": place})
        self._experiments[wanted.name] = place
        for key, value in wanted.tags.items():
            tag = {"experiment_id": place, "key": key, "value": value}
            self.call(self._link.call, "POST", f"{MLFLOW}/experiments/set-experiment-tag", tag)

    def close(self, wanted: SourceExperiment) -> None:
        """Delete the experiment if its source has, with its runs; never one that an import has not made."""
        if wanted.deleted and wanted.name in self._own and wanted.name in self._experiments:
            body = {"experiment_id": self._experiments.pop(wanted.name)}
            self.call(self._link.call, "POST", f"{MLFLOW}/experiments/delete", body)

    def _find_experiment(self, name: str) -> dict[str, Any] | None:
        place = f"{MLFLOW}/experiments/get-by-name?experiment_name={quote(name, safe='')}"
        try:
            return dict(self._link.call("GET", place, None)["experiment"])
        except RefusedError as error:
            if error.code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def describe(self, run: SourceRun) -> None:
        """Log params and tags, under names that MLflow takes."""
        for kind, entries in (("params", run.params), ("tags", run.tags)):
            legal = LegalNames(run.notes)
            listed = [{"key": legal(key), "value": value} for key, value in entries.items()]
            for entry in listed:
                if kind == "params" and len(entry["value"]) > _MOST_PARAM:
                    run.notes.append(f"param {entry['key']!r} is cut to {_MOST_PARAM:,} characters")
                    entry["value"] = entry["value"][:_MOST_PARAM]
            for first in range(0, len(listed), _MOST_ENTRIES):
                part: dict[str, list[dict[str, Any]]] = {kind: listed[first : first + _MOST_ENTRIES]}
                self.call(log_batch, self._link, run.run_id, part, _refusing(run))

    def send(self, points: PointColumns) -> None:
        """Store points of one run; returns when they are durable."""
        for first in range(0, len(points), _REQUEST_POINTS):
            body = _frames(points, first, min(first + _REQUEST_POINTS, len(points)))
            answer = self.call(self._post, body)
            if answer.get("refused"):
                raise TargetError(f"the server refuses points: {answer['refused'][0]['reason']}")

    def _post(self, body: bytes) -> dict[str, Any]:
        return self._link.request(
            "POST", INGEST, body, content_type="application/vnd.runstream.frames", timeout_s=120.0
        )

    def upload(self, run: SourceRun, made: Mapping[str, Path]) -> int:
        """Upload the run's files, and those that were made for it; how many."""
        files = {**run.artifacts, **made}
        if not files:
            return 0
        found = self.call(self._link.call, "GET", f"{MLFLOW}/runs/get?run_id={quote(run.run_id)}", None)
        place = str(found["run"]["info"]["artifact_uri"])
        for inner, path in files.items():
            self.call(upload, self._link, place, path, inner)
        return len(files)

    def finish(self, run: SourceRun) -> None:
        """Give the run its status and times, and delete it if its source has."""
        update: dict[str, Any] = {"run_id": run.run_id, "status": run.status, "run_name": run.name}
        if run.status != "RUNNING" and run.end_time is not None:
            update["end_time"] = run.end_time
        self.call(self._link.call, "POST", f"{MLFLOW}/runs/update", update)
        if run.deleted:
            self.call(self._link.call, "POST", f"{MLFLOW}/runs/delete", {"run_id": run.run_id})


def _refusing(run: SourceRun) -> Callable[[str, str], None]:
    def refused(what: str, reason: str) -> None:
        run.notes.append(f"{what} is refused: {reason}")

    return refused


def _frames(points: PointColumns, first: int, last: int) -> bytes:
    keys = list(points.keys)
    codes = points.key_codes[first:last]
    used = np.unique(codes).tolist()
    parts = [
        frame.encode_json(frame.FILE, {"run_id": points.runs[0]}),
        frame.encode_names((code, keys[code]) for code in used),
    ]
    for start in range(first, last, _FRAME_POINTS):
        part = slice(start, min(start + _FRAME_POINTS, last))
        columns = Columns(
            points.steps[part].astype("<i8").tobytes(),
            points.timestamps[part].astype("<i8").tobytes(),
            points.values[part].astype("<f8").tobytes(),
            points.key_codes[part].astype("<u4").tobytes(),
        )
        parts.append(frame.encode_columns(columns))
    return frame.compress(b"".join(parts))


def write_texts(run: SourceRun, folder: Path) -> dict[str, Path]:
    """The run's made files, written: by name inside the run."""
    made: dict[str, Path] = {}
    for inner, text in run.texts.items():
        path = folder / f"{len(made)}"
        path.write_text(text, encoding="utf-8")
        made[inner] = path
    return made
