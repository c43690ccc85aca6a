"""Long tables in every format, and the tables of one run that trainers write."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from runstream.importing.metrics_table import SourceError
from runstream.importing.sources import SourceRun
from runstream.importing.tables import Tables


def _points(run: SourceRun) -> dict[str, list[tuple[int, int, float]]]:
    found: dict[str, list[tuple[int, int, float]]] = {}
    for points in run.read():
        for place, code in enumerate(points.key_codes.tolist()):
            point = (int(points.steps[place]), int(points.timestamps[place]), float(points.values[place]))
            found.setdefault(points.keys[code], []).append(point)
    return found


_LONG = pa.table(
    {
        "run": ["a", "a", "b" * 32, "a"],
        "key": ["loss", "acc%", "loss", "loss"],
        "step": pa.array([0.5, 1.0, 3.0, 2.25]),
        "timestamp": pa.array([10, 20, 30, 40], pa.int64()),
        "value": [1.5, math.inf, -0.0, 2.5],
    }
)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".arrow", ".feather"])
def test_a_long_table(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    if suffix == ".parquet":
        pq.write_table(_LONG, path)
    elif suffix == ".csv":
        pc_csv.write_csv(_LONG, path)
    elif suffix == ".feather":
        feather.write_feather(_LONG, path)
    else:
        with pa.ipc.new_stream(str(path), _LONG.schema) as writer:
            writer.write_table(_LONG)
    runs = {run.name: run for run in Tables(path).runs()}
    assert _points(runs["a"]) == {"loss": [(50, 10, 1.5), (225, 40, 2.5)], "acc_": [(100, 20, math.inf)]}
    assert runs["a"].tags == {"runstream.step_scale": "100"}
    assert any("'acc%' became 'acc_'" in note for note in runs["a"].notes)
    assert (runs["a"].start_time, runs["a"].end_time) == (10, 40)
    # An id of MLflow's stays what it is.
    assert runs["b" * 32].run_id != runs["a"].run_id
    assert _points(runs["b" * 32]) == {"loss": [(3, 30, -0.0)]}


def test_neptunes_exported_parquet(tmp_path: Path) -> None:
    def row(path: str, kind: str, **values: object) -> dict[str, object]:
        empty = dict.fromkeys(
            ("step", "timestamp", "int_value", "float_value", "string_value", "bool_value", "datetime_value")
        )
        return (
            {"project_id": "team/vision", "run_id": "R-1", "attribute_path": path, "attribute_type": kind}
            | empty
            | values
        )

    rows = [
        row(
            "train/loss",
            "float_series",
            step=Decimal("0.500000"),
            timestamp=1_700_000_000_000,
            float_value=1.0,
        ),
        row(
            "train/loss",
            "float_series",
            step=Decimal("1.000000"),
            timestamp=1_700_000_000_001,
            float_value=0.5,
        ),
        row("lr", "float", float_value=0.25),
        row("layers", "int", int_value=3),
        row("sys/name", "string", string_value="first"),
        row("picture", "file_series", step=Decimal(1)),
    ]
    schema = pa.schema(
        [
            ("project_id", pa.string()),
            ("run_id", pa.string()),
            ("attribute_path", pa.string()),
            ("attribute_type", pa.string()),
            ("step", pa.decimal128(18, 6)),
            ("timestamp", pa.timestamp("ms", "UTC")),
            ("int_value", pa.int64()),
            ("float_value", pa.float64()),
            ("string_value", pa.string()),
            ("bool_value", pa.bool_()),
            ("datetime_value", pa.timestamp("ms", "UTC")),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "R-1_part_0.parquet", compression="snappy")
    (run,) = Tables(tmp_path).runs()
    assert _points(run) == {"train/loss": [(5, 1_700_000_000_000, 1.0), (10, 1_700_000_000_001, 0.5)]}
    assert run.params == {"lr": "0.25", "layers": "3"}
    assert run.tags == {"sys/name": "first", "runstream.step_scale": "10"}
    assert run.experiment == "team/vision"
    assert any("1 rows of file_series are left out" in note for note in run.notes)


def test_lightnings_csv_and_the_state_of_a_trainer(tmp_path: Path) -> None:
    (tmp_path / "version_0").mkdir()
    (tmp_path / "version_0/metrics.csv").write_text(
        "epoch,step,train_loss,val_loss\n0,1,0.5,\n0,2,nan,\n0,2,,0.75\n"
    )
    (tmp_path / "checkpoint-2").mkdir()
    state = {
        "global_step": 2,
        "log_history": [{"epoch": 0.5, "loss": 1.25, "step": 1}, {"eval_loss": 2.0, "step": 2}],
    }
    (tmp_path / "checkpoint-2/trainer_state.json").write_text(json.dumps(state))
    runs = {run.name: run for run in Tables(tmp_path).runs()}
    lightning = _points(runs["version_0"])
    assert [(step, value) for step, _, value in lightning["val_loss"]] == [(2, 0.75)]
    assert [step for step, *_ in lightning["train_loss"]] == [1, 2]
    assert math.isnan(lightning["train_loss"][1][2])
    assert len(lightning["epoch"]) == 3
    trainer = _points(runs["checkpoint-2"])
    assert {key: [point[0] for point in series] for key, series in trainer.items()} == {
        "epoch": [1],
        "loss": [1],
        "eval_loss": [2],
    }
    assert runs["checkpoint-2"].params == {"global_step": "2"}


def test_a_table_without_the_columns_is_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    with pytest.raises(SourceError, match="no column 'run'"):
        list(Tables(tmp_path).runs())
