"""Migration files: frozen, numbered, and the same in both flavours."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from runstream.schemas import migrations
from runstream.schemas.errors import ConfigError
from runstream.schemas.migrations import Flavour, Migration


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the released files that a test may spoil."""
    released = Path(migrations.__file__).parent / "clickhouse"
    shutil.copytree(released, tmp_path / "clickhouse")

    class Resources:
        @staticmethod
        def files(_package: str) -> Any:
            return tmp_path

    monkeypatch.setattr(migrations, "resources", Resources)
    return tmp_path / "clickhouse"


def test_released_files_load() -> None:
    loaded = migrations.load()
    assert [migration.number for migration in loaded] == list(range(1, len(loaded) + 1))
    for migration in loaded:
        for flavour in (Flavour(), Flavour("c")):
            for statement in migration.statements(flavour):
                assert "${" not in statement
                assert "--" not in statement
                assert "IF NOT EXISTS" in statement, "each statement can be repeated"


def test_changed_file(folder: Path) -> None:
    path = folder / "0001_metrics.sql"
    path.write_text(path.read_text() + "\n-- a harmless word")
    with pytest.raises(ConfigError, match=r"0001_metrics\.sql is not the released one"):
        migrations.load()


def test_missing_file(folder: Path) -> None:
    (folder / "0001_metrics.sql").unlink()
    with pytest.raises(ConfigError, match="missing"):
        migrations.load()


def test_added_file(folder: Path) -> None:
    (folder / "0002_more.sql").write_text("SELECT 1;")
    with pytest.raises(ConfigError, match=r"0002_more\.sql"):
        migrations.load()


def test_statements_by_flavour() -> None:
    migration = Migration(
        1, "x", "-- words; with a semicolon\nCREATE ${table};\n\n-- only: cluster\nCREATE ON ${cluster};\n"
    )
    assert migration.statements(Flavour()) == ["CREATE metrics"]
    assert migration.statements(Flavour("c-1")) == ["CREATE metrics_local", "CREATE ON 'c-1'"]


@pytest.mark.parametrize("name", ["", "a'b", "a b", "x;y"])
def test_cluster_names(name: str) -> None:
    with pytest.raises(ConfigError):
        Flavour(name)
