"""Numbers that JSON lacks are written by MLflow's names in every format of text, however deep they are."""

from __future__ import annotations

import csv
import io
import json
import math

import pyarrow as pa
import pytest

from runstream.query.http.formats import FORMATS

ODD = [1.5, math.nan, math.inf, -math.inf, None]


def batch() -> pa.RecordBatch:
    return pa.record_batch(
        {
            "name": pa.array(["a", 'say "b", c', "", None, "line\nbreak"]).dictionary_encode(),
            "value": pa.array(ODD, pa.float64()),
            "single": pa.array(ODD, pa.float32()),
            "many": pa.array([[value] for value in ODD], pa.list_(pa.float64())),
            "pair": pa.array([{"x": value} for value in ODD]),
            "map": pa.array([[("k", value)] for value in ODD], pa.map_(pa.string(), pa.float64())),
            "whole": pa.array([1, 2, 3, None, -(2**63)]),
        }
    )


def written(name: str) -> str:
    made = batch()
    return b"".join(FORMATS[name].write(made.schema, [made], "none")).decode()


NAMED = [1.5, "NaN", "Infinity", "-Infinity", None]


def test_json() -> None:
    rows = json.loads(written("json"), parse_constant=lambda text: pytest.fail(text))
    assert [row["value"] for row in rows] == NAMED
    assert [row["single"] for row in rows] == NAMED
    assert [row["many"] for row in rows] == [[value] for value in NAMED]
    assert [row["pair"] for row in rows] == [{"x": value} for value in NAMED]
    assert [row["map"] for row in rows] == [[["k", value]] for value in NAMED]


def test_csv() -> None:
    header, *rows = csv.reader(io.StringIO(written("csv"), newline=""))
    assert header == ["name", "value", "single", "many", "pair", "map", "whole"]
    columns = dict(zip(header, map(tuple, zip(*rows, strict=True)), strict=True))
    assert columns["name"] == ("a", 'say "b", c', "", "", "line\nbreak")
    assert columns["value"] == columns["single"] == ("1.5", "NaN", "Infinity", "-Infinity", "")
    assert [json.loads(text) for text in columns["many"]] == [[value] for value in NAMED]
    assert [json.loads(text) for text in columns["pair"]] == [{"x": value} for value in NAMED]
    assert columns["whole"] == ("1", "2", "3", "", str(-(2**63)))


def test_csv_is_a_file_to_keep() -> None:
    assert FORMATS["csv"].headers["Content-Disposition"].startswith("attachment")
    assert "Content-Disposition" not in FORMATS["json"].headers
