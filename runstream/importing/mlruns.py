"""MLflow's file store (a folder ``mlruns``) as a source: experiments, runs, params, tags, points and files.

The layout is that of ``mlflow.store.tracking.file_store``: ``EXPERIMENT/meta.yaml``, ``EXPERIMENT/tags/KEY``,
``EXPERIMENT/RUN/meta.yaml``, and in the run ``params/KEY``, ``tags/KEY``, ``artifacts/`` and ``metrics/KEY`` with a
line ``timestamp value step`` for each point; deleted experiments are below ``.trash``. What cannot be read is named in
the notes and skipped; symbolic links are never followed: a folder of someone else's brings no file from outside it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from runstream.importing.sources import (
    LegalNames,
    SourceExperiment,
    SourceRun,
    made_id,
    one_run,
    version_of,
)
from runstream.schemas.record import PointColumns

_TRASH = ".trash"
_META = "meta.yaml"
# Folders beside the runs, and beside the experiments, that are no runs and no experiments.
_NO_RUNS = frozenset({"tags", "models", "traces", "datasets"})
_REGISTRY = "models"
# MLflow's RunStatus, as its files hold it.
_STATUS = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_MOST_BYTES = 1 << 20
_LINES = 100_000
_MOST_LINE_BYTES = 4_096
_INT64 = range(-(2**63), 2**63)
# MLflow makes this itself, from the name that a run is created with.
_MADE_BY_MLFLOW = frozenset({"mlflow.runName"})


class Mlruns:
    """A file store. ``experiment``, if given, chooses one by name; files of runs only where ``artifacts`` says so."""

    def __init__(self, folder: Path, experiment: str | None = None, artifacts: bool = True) -> None:
        self._folder = folder
        self._only = experiment
        self._artifacts = artifacts
        self.notes: list[str] = []

    @staticmethod
    def recognizes(folder: Path) -> bool:
        """Whether a folder in it describes an experiment."""
        return folder.is_dir() and any(
            {"name", "artifact_location"} <= (_meta(found.parent, []) or {}).keys()
            for where in (folder, folder / _TRASH)
            for found in where.glob(f"*/{_META}")
        )

    def experiments(self) -> Iterator[SourceExperiment]:
        """Every experiment, those in the trash too."""
        for _, experiment in self._experiments():
            yield experiment

    def runs(self) -> Iterator[SourceRun]:
        """See ``Source``."""
        for folder, experiment in self._experiments():
            for found in _folders(folder, self.notes):
                if found.name not in _NO_RUNS:
                    run = self._run(found, experiment)
                    if run is not None:
                        yield run

    def _experiments(self) -> Iterator[tuple[Path, SourceExperiment]]:
        notes: list[str] = []
        self.notes = notes
        for where in (self._folder, self._folder / _TRASH):
            for folder in _folders(where, notes) if where.is_dir() and not where.is_symlink() else ():
                if folder.name == _TRASH:
                    continue
                if folder.name == _REGISTRY:
                    notes.append(f"{folder}: registered models are left out")
                    continue
                meta = _meta(folder, notes)
                if meta is None:
                    continue
                name = meta.get("name")
                if not isinstance(name, str) or not name:
                    notes.append(f"{folder} is skipped: its {_META} names no experiment")
                    continue
                if self._only is None or name == self._only:
                    for kind in ("models", "traces", "datasets"):
                        if (folder / kind).is_dir():
                            notes.append(f"{folder / kind} is left out")
                    deleted = meta.get("lifecycle_stage") == "deleted"
                    yield folder, SourceExperiment(name, _texts(folder / "tags", notes), deleted)

    def _run(self, folder: Path, experiment: SourceExperiment) -> SourceRun | None:
        meta = _meta(folder, self.notes)
        if meta is None:
            return None
        named = folder.name
        if meta.get("run_id", meta.get("run_uuid")) != named:
            self.notes.append(f"{folder} is skipped: its {_META} does not name this run")
            return None
        ignored: list[str] = []
        described = [
            path for kind in ("metrics", "params", "tags") for _, path in _files(folder / kind, ignored)
        ]
        kept: dict[str, Path] = {}
        notes: list[str] = []
        if self._artifacts:
            kept = dict(_files(folder / "artifacts", notes))
        elif (folder / "artifacts").is_dir():
            notes.append("its artifacts are not asked for")
        run_id = named if _RUN_ID.fullmatch(named) else made_id("mlruns", named)
        if run_id != named:
            notes.append(f"run {named!r} became {run_id}")
        if (folder / "inputs").is_dir():
            notes.append("its dataset and model inputs are left out")
        name = meta.get("run_name") or _text(folder / "tags" / "mlflow.runName", []) or named
        status = meta.get("status", 1)
        run = SourceRun(
            run_id=run_id,
            experiment=experiment.name,
            name=str(name) if isinstance(name, str | int | float) else named,
            version=version_of([folder / _META, *described, *kept.values()]),
            read=_nothing,  # its own follows: what it finds it adds to the run
            start_time=_number(meta.get("start_time")),
            end_time=_number(meta.get("end_time")),
            status=_STATUS.get(status, "RUNNING") if isinstance(status, int) else str(status)[:20],
            deleted=meta.get("lifecycle_stage") == "deleted",
            artifacts=kept,
            notes=notes,
        )
        run.read = _reader(folder, run)
        return run


def _nothing() -> Iterator[PointColumns]:
    return iter(())


def _reader(folder: Path, run: SourceRun) -> Callable[[], Iterator[PointColumns]]:
    def read() -> Iterator[PointColumns]:
        run.params = _texts(folder / "params", run.notes)
        tags = _texts(folder / "tags", run.notes)
        run.tags = {key: value for key, value in tags.items() if key not in _MADE_BY_MLFLOW}
        legal = LegalNames(run.notes)
        for key, path in _files(folder / "metrics", run.notes):
            yield from _points(run, legal(key), path)

    return read


def _points(run: SourceRun, key: str, path: Path) -> Iterator[PointColumns]:
    """The points of one file. A line that is no point is skipped; the first one is named, with how many there are."""
    wrong = 0
    first = 0
    number = 0
    try:
        with path.open("rb") as file:
            lines = iter(lambda: file.readline(_MOST_LINE_BYTES), b"")
            while block := list(islice(lines, _LINES)):
                found = []
                for line in block:
                    number += 1
                    point = _point(line)
                    if point is not None:
                        found.append(point)
                    elif line.strip():
                        wrong += 1
                        first = first or number
                if found:
                    timestamps, values, steps = zip(*found, strict=True)
                    yield one_run(
                        run.run_id,
                        [key],
                        np.zeros(len(found), np.uint32),
                        np.array(steps, np.int64),
                        np.array(timestamps, np.int64),
                        np.array(values, np.float64),
                    )
    except OSError as error:
        run.notes.append(f"{path} is skipped from line {number + 1} on: {error.strerror}")
    if wrong:
        run.notes.append(f"{path}: {wrong:,} lines that are no points are skipped, the first is line {first}")


def _point(line: bytes) -> tuple[int, float, int] | None:
    """Timestamp, value and step. The oldest lines have no step; the newest also name a dataset, after the step."""
    parts = line.split()
    if len(parts) not in (2, 3, 5):
        return None
    try:
        timestamp, value = int(parts[0]), float(parts[1])
        step = int(parts[2]) if len(parts) > 2 else 0
    except ValueError:
        return None
    return (timestamp, value, step) if timestamp in _INT64 and step in _INT64 else None


def _folders(folder: Path, notes: list[str]) -> list[Path]:
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            notes.append(f"{path} is skipped: a symbolic link")
        elif path.is_dir():
            found.append(path)
    return found


def _files(folder: Path, notes: list[str]) -> list[tuple[str, Path]]:
    """Plain files below this folder, with their names inside it."""
    found: list[tuple[str, Path]] = []
    if folder.is_symlink():
        notes.append(f"{folder} is skipped: a symbolic link")
        return found
    for where, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(where, name)
            inner = path.relative_to(folder).as_posix()
            if path.is_symlink():
                notes.append(f"{path} is skipped: a symbolic link")
            elif name in folders:
                continue
            elif not path.is_file() or not inner.isprintable():
                notes.append(f"{str(path)!r} is skipped: no plain file, or no printable name")
            else:
                found.append((inner, path))
    return sorted(found)


def _text(path: Path, notes: list[str]) -> str | None:
    try:
        if path.is_symlink() or not path.is_file():
            return None
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            notes.append(f"{path} is skipped: more than {_MOST_BYTES:,} bytes")
            return None
        return content.decode()
    except OSError as error:
        notes.append(f"{path} is skipped: {error.strerror}")
    except UnicodeDecodeError:
        notes.append(f"{path} is skipped: no UTF-8")
    return None


def _texts(folder: Path, notes: list[str]) -> dict[str, str]:
    """A file for each key."""
    found = ((key, _text(path, notes)) for key, path in _files(folder, notes))
    return {key: text for key, text in found if text is not None}


def _meta(folder: Path, notes: list[str]) -> dict[str, Any] | None:
    text = _text(folder / _META, notes)
    if text is None:
        notes.append(f"{folder} is skipped: no {_META} that can be read")
        return None
    try:
        # Not libyaml's: a hostile file's deep nesting ends its process.
        meta = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict):
        notes.append(f"{folder} is skipped: its {_META} is broken")
        return None
    return meta


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 <= value < 2**63 else None
