"""Moving out: runs of a server as a folder of Parquet, JSON and files, or as TensorBoard's event files.

::

    OUT/export.json            {"format": "runstream-export", "version": 1}
    OUT/runs.jsonl             a line for each run: its experiment, info, params, tags
    OUT/points-00000.parquet   run, key, step, timestamp (Unix, ms), value: ordered by all of them
    OUT/artifacts/RUN/…        its files
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from runstream.importing.read_back import RUNS_AT_ONCE, batches
from runstream.importing.tensorboard_writer import EventWriter
from runstream.query.client.http import Http, ServerError
from runstream.schemas.errors import ConfigError, RunstreamError

FORMAT = {"format": "runstream-export", "version": 1}
POINTS = pa.schema(
    [
        pa.field("run", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("key", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
_MLFLOW = "/api/2.0/mlflow"
_PAGE = 1_000
_FILE_POINTS = 20_000_000
_GROUP_ROWS = 200_000

# Told how many runs of how many are done, and how many points.
Progress = Callable[[str, int, int, int], None]


class ExportError(RunstreamError):
    """The server does not answer, or the folder cannot be written."""


@dataclass
class Wanted:
    """Which runs: these, or all of these experiments (by name), narrowed by MLflow's search syntax; else all."""

    runs: list[str] = field(default_factory=list)
    experiments: list[str] = field(default_factory=list)
    filter: str = ""


def find(http: Http, wanted: Wanted) -> list[dict[str, Any]]:
    """The runs as MLflow's REST API shows them, deleted ones too, each with its ``experiment``'s name."""
    try:
        named = {str(one["experiment_id"]): one for one in _pages(http, "experiments", {"view_type": "ALL"})}
        if wanted.runs:
            found = [
                http.json("GET", f"{_MLFLOW}/runs/get", params={"run_id": run_id})["run"]
                for run_id in wanted.runs
            ]
        else:
            ids = [
                number
                for number, one in named.items()
                if not wanted.experiments or one["name"] in wanted.experiments
            ]
            if not ids:
                return []
            found = list(
                _pages(
                    http,
                    "runs",
                    {"experiment_ids": ids, "filter": wanted.filter, "run_view_type": "ALL"},
                )
            )
    except (ServerError, httpx.HTTPError) as error:
        raise ExportError(f"the runs cannot be listed: {error}") from error
    return [
        {
            "experiment": named[str(run["info"]["experiment_id"])]["name"],
            "info": run["info"],
            "params": {param["key"]: param["value"] for param in run["data"].get("params", [])},
            "tags": {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])},
        }
        for run in found
    ]


def _pages(http: Http, what: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    token: str | None = None
    while True:
        asked = {**body, "max_results": _PAGE, **({"page_token": token} if token else {})}
        answer = http.json("POST", f"{_MLFLOW}/{what}/search", json=asked)
        yield from answer.get(what, [])
        token = answer.get("next_page_token")
        if not token:
            return


def to_parquet(
    http: Http, runs: list[dict[str, Any]], out: Path, *, artifacts: bool, progress: Progress
) -> int:
    """Write the folder, which must be new or empty; how many points. The file that makes it one is written last."""
    _empty(out)
    with (out / "runs.jsonl").open("w", encoding="utf-8") as lines:
        for run in runs:
            lines.write(json.dumps(run, ensure_ascii=False) + "\n")
    points, number = 0, 0
    writer: Any = None
    held = 0
    try:
        for first in range(0, len(runs), RUNS_AT_ONCE):
            ids = [run["info"]["run_id"] for run in runs[first : first + RUNS_AT_ONCE]]
            for batch in batches(http, sorted(ids)):
                if writer is None:
                    path = out / f"points-{number:05}.parquet"
                    writer = pq.ParquetWriter(path, POINTS, compression="zstd")
                    number, held = number + 1, 0
                writer.write_table(_table(batch), row_group_size=_GROUP_ROWS)
                points += batch.num_rows
                held += batch.num_rows
                if held >= _FILE_POINTS:
                    writer.close()
                    writer = None
                progress("exporting", first, len(runs), points)
            progress("exporting", min(first + RUNS_AT_ONCE, len(runs)), len(runs), points)
    finally:
        if writer is not None:
            writer.close()
    if artifacts:
        for place, run in enumerate(runs):
            download(http, run["info"]["run_id"], out / "artifacts" / run["info"]["run_id"])
            progress("downloading", place + 1, len(runs), points)
    (out / "export.json").write_text(json.dumps(FORMAT) + "\n")
    return points


def _table(batch: Any) -> Any:
    columns = [batch.column(name) for name in ("run_id", "key", "step", "timestamp", "value")]
    return pa.Table.from_batches([pa.record_batch(columns, schema=POINTS)])


def _empty(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {out} cannot be made: {error.strerror}") from error
    if any(out.iterdir()):
        raise ConfigError(f"the folder {out} is not empty")


def download(http: Http, run_id: str, folder: Path) -> int:
    """A run's artifacts into a folder; how many files."""
    waiting, files = [""], 0
    try:
        while waiting:
            inner = waiting.pop()
            token = None
            while True:
                asked = {
                    "run_id": run_id,
                    **({"path": inner} if inner else {}),
                    **({"page_token": token} if token else {}),
                }
                answer = http.json("GET", f"{_MLFLOW}/artifacts/list", params=asked)
                for one in answer.get("files", []):
                    if one.get("is_dir"):
                        waiting.append(one["path"])
                        continue
                    path = folder / _inside(one["path"])
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with (
                        http.stream(
                            "GET", "/get-artifact", params={"run_id": run_id, "path": one["path"]}
                        ) as body,
                        path.open("wb") as file,
                    ):
                        for piece in body.iter_bytes():
                            file.write(piece)
                    files += 1
                token = answer.get("next_page_token")
                if not token:
                    break
    except (ServerError, httpx.HTTPError, OSError) as error:
        raise ExportError(f"artifacts of run {run_id} cannot be downloaded: {error}") from error
    return files


def _inside(path: str) -> PurePosixPath:
    """A path of the server's that stays inside. Raises ``ExportError``."""
    inner = PurePosixPath(path)
    if inner.is_absolute() or ".." in inner.parts:
        raise ExportError(f"the server names a path outside of its run: {path!r}")
    return inner


def to_tensorboard(http: Http, runs: list[dict[str, Any]], out: Path, *, progress: Progress) -> int:
    """A folder with an event file for each run, below that of its experiment; how many points.

    Values stay float64, as scalars of TensorBoard 2 may be.
    """
    _empty(out)
    points = 0
    for place, run in enumerate(runs):
        info = run["info"]
        name = f"{_plain(info.get('run_name') or 'run')}-{info['run_id'][:8]}"
        with EventWriter(out / _plain(run["experiment"]) / name, int(info.get("start_time") or 0)) as events:
            for batch in batches(http, [info["run_id"]]):
                events.scalars(
                    batch.column("key").to_pylist(),
                    batch.column("step").to_pylist(),
                    batch.column("timestamp").to_pylist(),
                    batch.column("value").to_numpy(),
                )
                points += batch.num_rows
        progress("exporting", place + 1, len(runs), points)
    return points


def _plain(name: str) -> str:
    plain = "".join(letter if letter.isalnum() or letter in "-_ ." else "_" for letter in name)
    return plain.strip(". ")[:100] or "_"
