"""TensorBoard's log folders as a source: every folder with event files is a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from runstream.importing.metrics_table import SourceError
from runstream.importing.sources import LegalNames, SourceRun, made_id, one_run, version_of
from runstream.importing.tensorboard_events import EventFile, Other, Scalars
from runstream.importing.tensorboard_messages import hparams
from runstream.schemas.record import PointColumns

_PATTERN = "*tfevents*"
_BLOCK = 200_000
# MLflow's longest tag.
_MOST_TAG = 8_000


class TensorBoard:
    """Event files, or folders of them. A run is named by its folder below the root, as in TensorBoard."""

    def __init__(self, path: Path, experiment: str | None = None) -> None:
        if not path.exists():
            raise SourceError(f"there is no {path}")
        self._path = path
        self._experiment = experiment or path.absolute().name
        self._followed: dict[Path, _Reading] = {}

    @staticmethod
    def recognizes(path: Path) -> bool:
        """Whether there is an event file."""
        return "tfevents" in path.name if path.is_file() else next(path.rglob(_PATTERN), None) is not None

    def runs(self) -> Iterator[SourceRun]:
        """See ``Source``."""
        found = [self._path] if self._path.is_file() else sorted(self._path.rglob(_PATTERN))
        root = self._path.parent if self._path.is_file() else self._path
        folders: dict[Path, list[Path]] = {}
        for path in found:
            if path.is_file():
                folders.setdefault(path.parent, []).append(path)
        for folder, files in folders.items():
            inner = folder.relative_to(root).as_posix()
            name = self._experiment if inner == "." else inner
            # Event files are named by the second, the host and the process that began them: the folder may move.
            run = SourceRun(
                run_id=made_id("tensorboard", inner, files[0].name),
                experiment=self._experiment,
                name=name,
                version=version_of(files),
                read=lambda: iter(()),
            )
            run.read = _Reading(run, files).read
            followed = self._followed.setdefault(folder, _Reading(run, files))
            followed.files, followed.run = files, run
            run.more = followed.more
            yield run


class _Reading:
    def __init__(self, run: SourceRun, files: list[Path]) -> None:
        self.run = run
        self.files = files
        self._texts: dict[str, list[str]] = {}
        self._skipped: dict[str, int] = {}
        self._open: dict[Path, EventFile] = {}

    def read(self) -> Iterator[PointColumns]:
        """All of it."""
        self._texts.clear()
        self._skipped.clear()
        self._open.clear()
        yield from self.more()

    def more(self) -> Iterator[PointColumns]:
        """What has come since the last time."""
        run = self.run
        run.notes.clear()
        names = LegalNames(run.notes)
        held: list[Scalars] = []
        rows = 0
        for path in self.files:
            file = self._open.setdefault(path, EventFile(path))
            for found in file.read():
                for one in [found] if isinstance(found, Scalars) else self._other(found):
                    held.append(one)
                    rows += len(one.steps)
                if rows >= _BLOCK:
                    yield self._block(held, names)
                    held, rows = [], 0
            if file.damaged is not None:
                run.notes.append(f"{path.name} is {file.damaged}")
        if held:
            yield self._block(held, names)
        run.notes += [f"{count:,} records of {kind} are left out" for kind, count in self._skipped.items()]
        for tag, lines in self._texts.items():
            text = "\n".join(lines)
            name = names(tag)
            if len(lines) == 1 and len(text) <= _MOST_TAG:
                run.tags[name] = text
            else:
                run.texts[f"text/{name}.txt"] = text + "\n"

    def _block(self, held: list[Scalars], names: LegalNames) -> PointColumns:
        keys: dict[str, int] = {}
        codes = [
            np.full(len(one.steps), keys.setdefault(names(one.tag), len(keys)), np.uint32) for one in held
        ]
        walls = np.concatenate([one.walls for one in held])
        timestamps = np.floor(walls * 1000 + 1e-4).astype(np.int64)
        if len(timestamps):
            first, last = int(timestamps.min()), int(timestamps.max())
            run = self.run
            run.start_time = first if run.start_time is None else min(run.start_time, first)
            run.end_time = last if run.end_time is None else max(run.end_time, last)
        return one_run(
            self.run.run_id,
            list(keys),
            np.concatenate(codes),
            np.concatenate([one.steps for one in held]),
            np.maximum(timestamps, 0),
            np.concatenate([one.values for one in held]),
        )

    def _other(self, found: Other) -> Iterator[Scalars]:
        if found.kind == "histogram":
            summary: dict[str, float] = found.content
            for name, value in summary.items():
                yield Scalars(
                    f"{found.tag}/{name}",
                    np.array([found.step], np.int64),
                    np.array([found.wall]),
                    np.array([value], np.float64),
                )
        elif found.kind == "text":
            tag = found.tag.removesuffix("/text_summary")
            lines = self._texts.setdefault(tag, [])
            lines.append(
                found.content if not found.step and not lines else f"step {found.step}: {found.content}"
            )
        elif found.kind == "hparams":
            params, about = hparams(found.content)
            self.run.params.update(params)
            self._about(about)
        else:
            self._skipped[found.content] = self._skipped.get(found.content, 0) + 1

    def _about(self, about: dict[str, Any]) -> None:
        if about.get("group"):
            self.run.tags["group"] = str(about["group"])
        # tensorboard/plugins/hparams/api.proto, Status: 1 success, 2 failure, 3 running.
        status = {1: "FINISHED", 2: "FAILED", 3: "RUNNING"}.get(about.get("status", 0))
        if status is not None:
            self.run.status = status
