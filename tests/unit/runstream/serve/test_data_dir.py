"""The data folder is its owner's alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from runstream.roles.tracking import prepare_sqlite
from runstream.serve.data_dir import DataDir


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_made_is_for_its_owner(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "further" / "data")
    data.claim()
    try:
        for folder in (data.root, data.log, data.clickhouse, data.artifacts, data.run):
            assert mode(folder) == 0o700, folder
        prepare_sqlite(data.metadata)
        assert mode(data.metadata) == 0o600
    finally:
        data.release()


def test_what_is_there_stays_as_its_owner_wants_it(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir(mode=0o750)
    (root / "mlflow.db").touch(0o640)
    data = DataDir(root)
    data.claim()
    data.release()
    prepare_sqlite(data.metadata)
    assert mode(root) == 0o750
    assert mode(data.log) == 0o700
    assert mode(data.metadata) == 0o640
