"""Imports run one way, and every vendor has one door. Read from the sources, so nothing needs to be importable."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("runstream", "schemas", "ingest", "query")
MAY_IMPORT = {
    "schemas": {"schemas"},
    "ingest": {"schemas", "ingest"},
    "query": {"schemas", "query"},
    "runstream": {"runstream", "schemas", "ingest", "query"},
}
# Folders of ingest that know each other only through the queue's protocol.
APART = (
    ("ingest/gateway", "runstream.ingest.writer"),
    ("ingest/writer", "runstream.ingest.gateway"),
    ("ingest/control", "runstream.ingest.gateway"),
    ("ingest/control", "runstream.ingest.writer"),
    ("ingest/writer", "runstream.ingest.control"),
    *(
        ("ingest/client", f"runstream.ingest.{other}")
        for other in ("gateway", "writer", "queue", "artifacts")
    ),
)
DOORS = {
    "aiokafka": ("ingest/queue/kafka",),
    "obstore": ("ingest/artifacts/",),
    "clickhouse_connect": ("runstream/clickhouse",),
    "chdb": ("runstream/clickhouse",),
    "prometheus_client": (
        "ingest/gateway/telemetry",
        "ingest/gateway/artifacts/telemetry",
        "ingest/gateway/http/probes",
        "runstream/",
    ),
    "msgspec": ("ingest/gateway/", "ingest/control/", "query/", "schemas/"),
    "mlflow": ("query/", "runstream/roles/tracking", "ingest/client/"),
    "requests": ("ingest/client/link",),
    "crc32c": ("schemas/frame",),
}


def sources() -> list[Path]:
    return [path for package in OURS for path in sorted((ROOT / package).rglob("*.py"))]


def home(module: str) -> str:
    """The folder at the top of the repository that a module of ours lives in."""
    folder = module.split(".")[1:2]
    return folder[0] if folder and folder[0] in OURS else "runstream"


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            yield node.module or ""


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_of(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    package = place.split("/")[0]
    for module in imported(path):
        top = module.split(".")[0]
        assert top not in ("schemas", "ingest", "query"), (
            f"{place}: {module} is imported as runstream.{module}"
        )
        if top == "runstream":
            assert home(module) in MAY_IMPORT[package], f"{place} must not import {module}"
        for folder, forbidden in APART:
            assert not (place.startswith(folder) and module.startswith(forbidden)), (
                f"{place} imports {module}"
            )
        doors = DOORS.get(top)
        assert doors is None or place.startswith(doors), f"{place} imports {module}; its door is {doors}"


def test_files_stay_small() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sources()
        if (lines := path.read_text().count("\n")) > 400
    }
    assert not long, f"split before 400 lines: {long}"
