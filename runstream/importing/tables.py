"""Tables as sources: a long table (run, key, step, timestamp, value) in Parquet, CSV or Arrow, Neptune's exported
Parquet, Lightning's ``metrics.csv`` and the ``trainer_state.json`` of Hugging Face's trainers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv
import pyarrow.dataset as dataset
import pyarrow.parquet as pq
from numpy.typing import NDArray

from runstream.importing.metrics_table import SourceError
from runstream.importing.sources import (
    SCALE_TAG,
    LegalNames,
    SourceRun,
    made_id,
    one_run,
    version_of,
    whole_steps,
)
from runstream.schemas.record import PointColumns

_SUFFIXES = (".parquet", ".csv", ".arrow", ".arrows", ".feather", ".ipc")
# What other exporters call the five columns.
_CALLED = {
    "run": ("run", "run_id", "run_uuid"),
    "key": ("key", "metric", "name", "attribute_path"),
    "step": ("step",),
    "timestamp": ("timestamp", "time"),
    "value": ("value", "float_value"),
}
_HEX = frozenset("0123456789abcdef")


def recognizes(path: Path) -> bool:
    """Whether this is a table, or a folder of some."""
    if path.is_file():
        return path.suffix in _SUFFIXES or path.name == "trainer_state.json"
    return bool(_files(path))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise SourceError(f"there is no {path}")
    found = [one for one in path.rglob("*") if one.suffix in _SUFFIXES or one.name == "trainer_state.json"]
    return sorted(one for one in found if one.is_file() and "artifacts" not in one.relative_to(path).parts)


class Tables:
    """A file, or all such files of a folder; parts of one run may be in several of them."""

    def __init__(self, path: Path, experiment: str | None = None) -> None:
        self._path = path
        self._experiment = experiment or path.absolute().with_suffix("").name

    def runs(self) -> Iterator[SourceRun]:
        """See ``Source``."""
        long: list[Path] = []
        for path in _files(self._path):
            if path.name == "trainer_state.json":
                yield self._single(path, _trainer_state)
            elif path.suffix == ".csv" and _called(_csv_names(path), required=False) is None:
                yield self._single(path, _wide_csv)
            else:
                long.append(path)
        yield from self._long(long)

    def _single(self, path: Path, read: Callable[[SourceRun, Path], Iterator[PointColumns]]) -> SourceRun:
        """A run that is one file, named by its folders."""
        root = self._path if self._path.is_dir() else self._path.parent
        inner = path.parent.relative_to(root).as_posix()
        name = inner if inner != "." else path.parent.absolute().name
        run = SourceRun(
            run_id=made_id("file", self._experiment, name, path.name),
            experiment=self._experiment,
            name=name,
            version=version_of([path]),
            read=lambda: iter(()),
        )
        run.read = lambda: read(run, path)
        return run

    def _long(self, paths: Sequence[Path]) -> Iterator[SourceRun]:
        """Runs of long tables. Each is read by itself, with the others filtered out."""
        parts: dict[tuple[str, str], list[Path]] = {}
        for path in paths:
            for names in _run_names(path):
                parts.setdefault(names, []).append(path)
        for (project, name), files in parts.items():
            # An id of MLflow's stays what it is: a table that has been exported finds its runs again.
            same = len(name) == 32 and _HEX.issuperset(name)
            run = SourceRun(
                run_id=name if same else made_id("table", project, name),
                experiment=project or self._experiment,
                name=name,
                version=version_of(files),
                read=lambda: iter(()),
            )
            run.read = _long_reader(run, project, name, files)
            yield run


# --- long tables -----------------------------------------------------------------------------------------------


def _csv_names(path: Path) -> list[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        return [name.strip().strip('"') for name in file.readline().rstrip("\r\n").split(",")]


def _names(path: Path) -> list[str]:
    if path.suffix == ".csv":
        return _csv_names(path)
    if path.suffix == ".parquet":
        names: list[str] = pq.read_schema(path).names
        return names
    with _arrow(path) as reader:
        return list(reader.schema.names)


def _arrow(path: Path) -> Any:
    file = pa.memory_map(str(path))
    try:
        return pa.ipc.open_file(file)
    except pa.ArrowInvalid:
        file.seek(0)
        return pa.ipc.open_stream(file)


def _called(names: Sequence[str], *, required: bool = True) -> dict[str, str] | None:
    """Which columns are the five. A timestamp may be missing."""
    found = {}
    for wanted, candidates in _CALLED.items():
        name = next((name for name in candidates if name in names), None)
        if name is not None:
            found[wanted] = name
        elif wanted != "timestamp":
            if required:
                raise SourceError(f"no column {wanted!r} among {', '.join(names)}")
            return None
    return found


def _batches(
    path: Path, columns: list[str] | None = None, run: tuple[str, str] | None = None
) -> Iterator[Any]:
    """The table's batches; with ``run`` (its column, its name) only those that may hold some of it."""
    try:
        if path.suffix == ".parquet":
            wanted = None if run is None else dataset.field(run[0]) == run[1]
            yield from dataset.dataset(path).to_batches(columns=columns, filter=wanted)
        elif path.suffix == ".csv":
            names = _csv_names(path)
            called = _called(names) or {}
            texts = {called["run"]: pa.string(), called["key"]: pa.string(), called["value"]: pa.string()}
            options = pc_csv.ConvertOptions(column_types=texts, include_columns=columns)
            with pc_csv.open_csv(path, convert_options=options) as reader:
                yield from reader
        else:
            with _arrow(path) as reader:
                for batch in (
                    reader
                    if not hasattr(reader, "num_record_batches")
                    else map(reader.get_batch, range(reader.num_record_batches))
                ):
                    yield batch.select(columns) if columns else batch
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error


def _run_names(path: Path) -> list[tuple[str, str]]:
    names = _names(path)
    called = _called(names) or {}
    project = "project_id" if "project_id" in names else None
    wanted = [called["run"], *([project] if project else [])]
    found: dict[tuple[str, str], None] = {}
    for batch in _batches(path, wanted):
        runs = _texts(batch.column(called["run"]))
        projects = _texts(batch.column(project)) if project else None
        table = pa.table(
            {"run": runs, "project": projects if projects is not None else pa.array([""] * len(runs))}
        )
        for row in table.group_by(["project", "run"]).aggregate([]).to_pylist():
            found[str(row["project"] or ""), str(row["run"])] = None
    return list(found)


def _texts(column: Any) -> Any:
    return column.cast(pa.string()) if not pa.types.is_string(column.type) else column


def _long_reader(
    run: SourceRun, project: str, name: str, files: list[Path]
) -> Callable[[], Iterator[PointColumns]]:
    def read() -> Iterator[PointColumns]:
        run.notes.clear()
        legal = LegalNames(run.notes)
        columns = [part for path in files for part in _of_run(run, project, name, path)]
        if not columns:
            return
        keys, raw_steps, timestamps, values = (
            np.concatenate([part[place] for part in columns]) for place in range(4)
        )
        steps = _steps(run, raw_steps)
        names, codes = np.unique(keys, return_inverse=True)
        mapped = [legal(str(one)) for one in names]
        _times(run, timestamps)
        yield one_run(run.run_id, mapped, codes.astype(np.uint32), steps, timestamps, values)

    return read


def _of_run(run: SourceRun, project: str, name: str, path: Path) -> Iterator[tuple[NDArray[Any], ...]]:
    names = _names(path)
    called = _called(names) or {}
    for batch in _batches(path, run=(called["run"], name)):
        mask = pc.equal(_texts(batch.column(called["run"])), name)
        if "project_id" in names:
            mask = pc.and_(mask, pc.equal(_texts(batch.column("project_id")), project))
        mine = batch.filter(mask)
        if "attribute_type" in names:
            mine = _neptune(run, mine)
        if not mine.num_rows:
            continue
        value, step = mine.column(called["value"]), mine.column(called["step"])
        if value.null_count or step.null_count:
            good = pc.and_(pc.is_valid(value), pc.is_valid(step))
            run.notes.append(
                f"{mine.num_rows - pc.sum(good).as_py():,} rows of {path.name} have no value or step"
            )
            mine = mine.filter(good)
            value, step = mine.column(called["value"]), mine.column(called["step"])
        if "timestamp" in called and not mine.column(called["timestamp"]).null_count:
            timestamps = _milliseconds(mine.column(called["timestamp"]))
        else:
            timestamps = np.full(mine.num_rows, _file_time(path), np.int64)
        whole = pa.types.is_integer(step.type)
        yield (
            _texts(mine.column(called["key"])).to_numpy(zero_copy_only=False),
            step.cast(pa.int64() if whole else pa.float64()).to_numpy(zero_copy_only=False),
            timestamps,
            _floats(value),
        )


def _floats(column: Any) -> NDArray[np.float64]:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        # NaN and infinities are written in many ways; Python reads them all.
        return np.array([float(text) for text in column.to_pylist()], np.float64)
    found: NDArray[np.float64] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return found


def _milliseconds(column: Any) -> NDArray[np.int64]:
    kind = column.type
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("ms", kind.tz), safe=False).cast(pa.int64())
    elif not pa.types.is_integer(kind):
        return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False) * 1000).astype(np.int64)
    found: NDArray[np.int64] = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return found


def _steps(run: SourceRun, raw: NDArray[Any]) -> NDArray[np.int64]:
    if raw.dtype.kind == "i":
        return raw.astype(np.int64)
    steps, scale = whole_steps(raw.astype(np.float64))
    if scale != 1:
        run.tags[SCALE_TAG] = str(scale)
        run.notes.append(f"steps of {run.name} are fractional: they are multiplied by {scale:,}")
    return steps


def _times(run: SourceRun, timestamps: NDArray[np.int64]) -> None:
    run.start_time, run.end_time = int(timestamps.min()), int(timestamps.max())


def _file_time(path: Path) -> int:
    return path.stat().st_mtime_ns // 1_000_000


def _neptune(run: SourceRun, batch: Any) -> Any:
    """Rows of a series stay; single values become params, and tags where they are Neptune's own (``sys/…``)."""
    kinds = batch.column("attribute_type")
    series = pc.equal(kinds, "float_series")
    skipped: dict[str, int] = {}
    for row in batch.filter(pc.invert(series)).to_pylist():
        kind, name = row["attribute_type"], row["attribute_path"]
        value = row.get(f"{kind}_value")
        if kind in ("int", "float", "string", "bool", "datetime") and value is not None:
            (run.tags if name.startswith("sys/") else run.params)[name] = str(value)
        elif kind == "string_set" and value is not None:
            run.tags[name] = ", ".join(value)
        else:
            skipped[kind] = skipped.get(kind, 0) + 1
    run.notes += [f"{count:,} rows of {kind} are left out" for kind, count in skipped.items()]
    return batch.filter(series)


# --- tables of one run -----------------------------------------------------------------------------------------


def _points(run: SourceRun, path: Path, rows: Iterator[tuple[str, float, float]]) -> Iterator[PointColumns]:
    """Points of (name, step, value); the time of all of them is the file's."""
    legal = LegalNames(run.notes)
    codes: dict[str, int] = {}
    found = [(codes.setdefault(legal(name), len(codes)), step, value) for name, step, value in rows]
    if not found:
        return
    places, steps, values = zip(*found, strict=True)
    timestamps = np.full(len(found), _file_time(path), np.int64)
    _times(run, timestamps)
    yield one_run(
        run.run_id,
        list(codes),
        np.array(places, np.uint32),
        _steps(run, np.array(steps, np.float64)),
        timestamps,
        np.array(values, np.float64),
    )


def _wide_csv(run: SourceRun, path: Path) -> Iterator[PointColumns]:
    """Lightning's ``CSVLogger``: a column for each metric, ``step`` among them, empty cells where there is no value."""
    run.notes.clear()
    names = _csv_names(path)
    if "step" not in names:
        raise SourceError(f"{path} has neither the columns of a long table nor a column 'step'")
    try:
        texts = {name: pa.string() for name in names}
        options = pc_csv.ConvertOptions(column_types=texts, strings_can_be_null=True, null_values=[""])
        table = pc_csv.read_csv(path, convert_options=options)
    except pa.ArrowException as error:
        raise SourceError(f"{path} cannot be read: {error}") from error

    def rows() -> Iterator[tuple[str, float, float]]:
        steps = table.column("step").to_pylist()
        for name in names:
            if name != "step":
                for step, value in zip(steps, table.column(name).to_pylist(), strict=True):
                    if step is not None and value is not None:
                        yield name, float(step), float(value)

    yield from _points(run, path, rows())


def _trainer_state(run: SourceRun, path: Path) -> Iterator[PointColumns]:
    """``log_history``: one object for each time that something was logged, with its ``step``."""
    run.notes.clear()
    try:
        state = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    for name in ("best_model_checkpoint", "global_step", "max_steps", "num_train_epochs", "train_batch_size"):
        if state.get(name) is not None:
            run.params[name] = str(state[name])

    def rows() -> Iterator[tuple[str, float, float]]:
        for entry in state.get("log_history", []):
            for name, value in entry.items():
                if name != "step" and isinstance(value, (int, float)):
                    yield name, float(entry["step"]), float(value)

    yield from _points(run, path, rows())
