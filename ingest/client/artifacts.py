"""Artifacts that wait in the spool: what MLflow's client has copied into a run's folder while there was no server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

from runstream.ingest.client import process
from runstream.ingest.client.link import MLFLOW, Link, RefusedError
from runstream.schemas import frame

FOLDER = "artifacts"
_PROXY = "/api/2.0/mlflow-artifacts/artifacts"


def waiting(run_folder: Path) -> list[Path]:
    """Files that have not been uploaded yet as they are now."""
    done = _uploaded(run_folder)
    found = []
    for root in _roots(run_folder):
        for path in sorted(root.rglob("*")) if root.is_dir() else []:
            if path.is_file() and done.get(path.relative_to(run_folder).as_posix()) != _version(path):
                found.append(path)
    return found


def has_artifacts(run_folder: Path) -> bool:
    """Whether there is a folder with files to upload, now or before."""
    return (run_folder / FOLDER).is_dir() or (run_folder / "models").is_dir()


def _roots(run_folder: Path) -> list[Path]:
    """The run's own files, and those of the models that were made in it."""
    return [run_folder / FOLDER, *run_folder.glob("models/*/files")]


def upload_all(link: Link, run_folder: Path, run_id: str, renamed: Mapping[str, str]) -> int:
    """Upload what waits to the run's own place, and its models' to theirs; how many files. Raises like
    ``Link.request``."""
    files = waiting(run_folder)
    places: dict[Path, str] = {}
    for path in files:
        root = next(root for root in _roots(run_folder) if path.is_relative_to(root))
        if root not in places:
            model_id = root.parent.name
            places[root] = (
                _place_of_run(link, run_id)
                if root.name == FOLDER
                else _place_of_model(link, renamed.get(model_id, model_id))
            )
        version = _version(path)
        upload(link, places[root], path, path.relative_to(root).as_posix())
        _note(run_folder, path.relative_to(run_folder).as_posix(), version)
    return len(files)


def _place_of_run(link: Link, run_id: str) -> str:
    return str(
        link.call("GET", f"{MLFLOW}/runs/get?run_id={quote(run_id)}", None)["run"]["info"]["artifact_uri"]
    )


def _place_of_model(link: Link, model_id: str) -> str:
    found = link.call("GET", f"{MLFLOW}/logged-models/{quote(model_id)}", None)
    return str(found["model"]["info"]["artifact_uri"])


def upload(link: Link, place: str, path: Path, inner: str) -> None:
    """Upload a file to ``inner`` below an artifact address of the server's. Raises like ``Link.request``."""
    parts = urlsplit(place)
    if parts.scheme == "mlflow-artifacts" or _PROXY in parts.path:
        root = parts.path.partition(_PROXY)[2] if _PROXY in parts.path else parts.path
        target = "/".join(quote(part) for part in PurePosixPath(root.strip("/"), inner).parts)
        with path.open("rb") as data:
            link.request(
                "PUT", f"{_PROXY}/{target}", data, content_type="application/octet-stream", timeout_s=600.0
            )
        return
    try:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    except ImportError:
        raise RefusedError(
            0, "", f"artifacts at {place} need MLflow; install it here and sync again"
        ) from None
    repository: Any = get_artifact_repository(place)
    folder = PurePosixPath(inner).parent.as_posix()
    repository.log_artifact(str(path), None if folder == "." else folder)


def _version(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _note(run_folder: Path, inner: str, version: list[int]) -> None:
    try:
        with (run_folder / f"artifacts.ack-{process.host()}-{os.getpid()}").open("ab", buffering=0) as file:
            file.write(frame.encode_json(frame.MARK, {"file": inner, "version": version}))
    except OSError:
        pass


def _uploaded(run_folder: Path) -> dict[str, list[int]]:
    done: dict[str, list[int]] = {}
    for marks in run_folder.glob("artifacts.ack-*"):
        data = marks.read_bytes()
        for one in frame.scan(data).frames:
            value = frame.decode_json(data, one)
            done[str(value["file"])] = value["version"]
    return done
