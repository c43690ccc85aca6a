"""The newest point of a series, against a plain reading of MLflow's rule."""

from __future__ import annotations

import math

import pytest
from hypothesis import given

from runstream.ingest.writer import newest as newest_module
from runstream.ingest.writer.blocks import merge
from runstream.ingest.writer.newest import latest_rows, newest
from runstream.schemas.mlflow.limits import MAX_DOUBLE
from support.points import Row, as_rows, columns, exact, rows


def stored(value: float) -> float:
    return 0.0 if math.isnan(value) else max(-MAX_DOUBLE, min(MAX_DOUBLE, value))


def expected(points: list[Row]) -> dict[tuple[str, str], Row]:
    """One after the other, as SqlAlchemyStore._update_latest_metrics_if_necessary does."""
    latest: dict[tuple[str, str], Row] = {}
    for row in points:
        old = latest.get(row[:2])
        if old is None or (row[2], row[3], stored(row[4])) > (old[2], old[3], stored(old[4])):
            latest[row[:2]] = row
    return latest


@given(rows())
def test_newest_is_mlflows_rule(points: list[Row]) -> None:
    found = as_rows(newest(columns(points)))
    assert {row[:2]: exact(row) for row in found} == {
        series: exact(row) for series, row in expected(points).items()
    }
    assert len(found) == len(expected(points))


@given(rows(), rows())
def test_newest_of_newest(first: list[Row], second: list[Row]) -> None:
    apart = newest(merge([newest(columns(first)), newest(columns(second))]))
    together = newest(columns(first + second))
    assert list(map(exact, as_rows(apart))) == list(map(exact, as_rows(together)))


@given(rows())
def test_many_series_are_numbered_by_sorting(points: list[Row]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(newest_module, "_DENSE_SLOTS", 0)
        patch.setattr(newest_module, "_DENSE_SLOTS_PER_POINT", 0)
        sparse = as_rows(newest(columns(points)))
    assert list(map(exact, sparse)) == list(map(exact, as_rows(newest(columns(points)))))


@given(rows())
def test_rows_are_stored_as_mlflow_stores_them(points: list[Row]) -> None:
    new = newest(columns(points))
    table = latest_rows(new)
    found = list(
        zip(table.keys, table.runs, table.steps, table.timestamps, table.values, table.is_nan, strict=True)
    )
    wanted = sorted(
        (key, run, step, timestamp, stored(value), math.isnan(value))
        for run, key, step, timestamp, value in as_rows(new)
    )
    assert found == wanted


def test_keys_that_do_not_fit_are_left_out() -> None:
    table = latest_rows(
        newest(columns([("r", key, 1, 1, 1.0) for key in ("x" * 250, "y" * 251, "nul\0", "ok")]))
    )
    assert table.keys == ["ok", "x" * 250]
