"""MLflow's calls over the spool: steps that code never gives count up by themselves, where that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.entities import Metric

from runstream.ingest.client.client import Client
from runstream.ingest.client.reader import SpoolFile, spool_files
from runstream.ingest.client.settings import SpoolSettings
from runstream.ingest.client.store import SpoolingStore
from runstream.schemas import frame

_RUN = "a" * 32


def steps_of(spool: Path) -> dict[str, list[int]]:
    """Every key's steps in the order of the files."""
    found: dict[str, list[int]] = {}
    for path in spool_files(spool):
        file, at = SpoolFile(path), 0
        while (piece := file.read(at)) is not None:
            for one in (one for one in piece.frames if one.kind == frame.POINTS):
                columns = frame.decode_points(piece.buffer, one)
                steps = memoryview(bytes(columns.steps)).cast("q")
                codes = memoryview(bytes(columns.codes)).cast("I")
                for step, code in zip(steps, codes, strict=True):
                    found.setdefault(file.names[code], []).append(step)
            at = piece.end
    return found


@pytest.mark.parametrize(("auto_step", "expected"), [(True, [0, 1, 7, 2]), (False, [0, 0, 7, 0])])
def test_steps_that_nobody_gives(auto_step: bool, expected: list[int], tmp_path: Path) -> None:
    """Each key counts by itself, in single calls and in batches alike; a step that is given is kept."""
    settings = SpoolSettings(tmp_path, offline=True, auto_step=auto_step)
    store = SpoolingStore(lambda: None, Client("http://127.0.0.1:9", settings))
    store.log_metric(_RUN, Metric("loss", 0.5, 1, 0))
    store.log_batch(_RUN, [Metric(key, 0.5, 2, 0) for key in ("loss", "accuracy")], [], [])
    store.log_metric(_RUN, Metric("loss", 0.5, 3, 7))
    store.log_metric(_RUN, Metric("loss", 0.5, 4, 0))
    assert steps_of(tmp_path) == {"loss": expected, "accuracy": [0]}
