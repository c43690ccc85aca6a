"""What ``runstream export`` has written, as a source: the same ids, times, params, tags, points and files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as dataset

from runstream.importing.exporting import FORMAT
from runstream.importing.metrics_table import SourceError
from runstream.importing.read_back import columns_of
from runstream.importing.sources import SourceRun, one_run, version_of
from runstream.schemas.record import PointColumns

# MLflow makes these itself, from what a run is created with.
_MADE_BY_MLFLOW = ("mlflow.runName",)


class Exported:
    """A folder of an export."""

    def __init__(self, folder: Path) -> None:
        try:
            about = json.loads((folder / "export.json").read_text())
        except (OSError, ValueError) as error:
            raise SourceError(f"{folder} cannot be read: {error}") from error
        if about.get("version", 0) > FORMAT["version"]:
            raise SourceError(f"{folder} is of a newer Runstream")
        self._folder = folder

    @staticmethod
    def recognizes(folder: Path) -> bool:
        """Whether this is such a folder."""
        return (folder / "export.json").is_file() and (folder / "runs.jsonl").is_file()

    def runs(self) -> Iterator[SourceRun]:
        """See ``Source``."""
        points = sorted(self._folder.glob("points-*.parquet"))
        version = version_of([*points, self._folder / "runs.jsonl"])
        with (self._folder / "runs.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                yield self._run(json.loads(line), points, version)

    def _run(self, known: dict[str, Any], points: list[Path], version: str) -> SourceRun:
        info = known["info"]
        run_id = str(info["run_id"])
        files = self._folder / "artifacts" / run_id
        return SourceRun(
            run_id=run_id,
            experiment=str(known["experiment"]),
            name=str(info.get("run_name") or run_id),
            version=version,
            read=_reader(run_id, points),
            start_time=_number(info.get("start_time")),
            end_time=_number(info.get("end_time")),
            status=str(info.get("status", "FINISHED")),
            deleted=info.get("lifecycle_stage") == "deleted",
            params=known["params"],
            tags={key: value for key, value in known["tags"].items() if key not in _MADE_BY_MLFLOW},
            artifacts={
                path.relative_to(files).as_posix(): path
                for path in sorted(files.rglob("*"))
                if path.is_file()
            },
        )


def _number(value: Any) -> int | None:
    return int(value) if value is not None else None


def _reader(run_id: str, points: list[Path]) -> Callable[[], Iterator[PointColumns]]:
    def read() -> Iterator[PointColumns]:
        if not points:
            return
        found = dataset.dataset([str(path) for path in points])
        try:
            for batch in found.to_batches(filter=dataset.field("run") == run_id):
                if batch.num_rows:
                    found_here = columns_of(batch.rename_columns(["run_id", *batch.schema.names[1:]]))
                    # The dictionary is that of the whole file: other runs are in it too.
                    yield one_run(
                        run_id,
                        list(found_here.keys),
                        found_here.key_codes,
                        found_here.steps,
                        found_here.timestamps,
                        found_here.values,
                    )
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"the points of {run_id} cannot be read: {error}") from error

    return read
