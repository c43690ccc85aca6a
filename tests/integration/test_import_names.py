"""One import name: a wheel adds ``runstream`` to an environment and nothing else, so that folders of a user's own with
everyday names stand in nobody's way."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from support.environments import built_wheel
from support.runstream_server import RunstreamServer

ROOT = Path(__file__).parents[2]
EVERYDAY = ("schemas", "query", "ingest")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    return built_wheel(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the wheel, and the libraries of the one that runs the tests."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return python


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A training repository: a module or a package of each everyday name."""
    folder = tmp_path / "training"
    for name in EVERYDAY:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise RuntimeError('a module of the user')\n")
    (folder / "common.py").write_text("X = 1\n")
    return folder


def test_a_wheel_has_one_top_level_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"runstream"}
    for folder, pattern in (
        ("ingest", "*.py"),
        ("query", "*.py"),
        ("schemas", "*.py"),
        ("schemas/clickhouse", "*.sql"),
        ("query/page/static", "*"),
    ):
        files = {p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob(pattern) if p.is_file()}
        files = {name for name in files if "__pycache__" not in name}
        assert files
        assert {f"runstream/{name}" for name in files} <= set(names)
    assert len(names) == len(set(names))


def test_a_notebook_and_mlflow_work_in_a_crowded_folder(python: Path, crowded: Path) -> None:
    code = (
        "import runstream, warnings; runstream.connect('http://127.0.0.1:9')\n"
        "import mlflow; mlflow.set_tracking_uri('sqlite:///own.db')\n"
        "print(len(mlflow.search_experiments()), runstream.__file__)"
    )
    done = subprocess.run(
        [python, "-c", code], cwd=crowded, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    count, where = done.stdout.split()[-2:]
    assert count == "1"
    assert where.startswith(str(python.parents[1]))
    assert "register store" not in done.stderr


def test_serve_becomes_ready_in_a_crowded_folder(python: Path, crowded: Path) -> None:
    with RunstreamServer(crowded / "data", python=python, folder=crowded) as server:
        assert server.get("/health") == b"OK"
