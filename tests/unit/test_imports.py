"""Imports run one way, and every vendor has one door. Read from the sources, so nothing needs to be importable."""

from __future__ import annotations

import ast
import graphlib
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
# Rooms of one house do not know each other but for what is shared, and for the arrows named here.
SHARED = {
    "query": ("http", "points", "api.requests"),
    "ingest/gateway": ("http", "telemetry", "config"),
}
BETWEEN = {
    # Points know where runs are looked up; settings hold those of the artifact routes.
    "ingest/gateway": {("writes", "control"), ("config", "artifacts")},
    "query": {("points", "http")},
}
# Where a house's parts are put together.
PUT_TOGETHER = {"query": ("service", "openapi", "warm_up"), "ingest/gateway": ("app",)}
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
    "crc32c": ("schemas/frame", "runstream/importing/tensorboard_"),
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


@pytest.mark.parametrize("house", SHARED)
def test_rooms_know_only_what_is_shared(house: str) -> None:
    prefix = f"runstream.{house.replace('/', '.')}."
    strangers = set()
    for path in sorted((ROOT / house).rglob("*.py")):
        room = path.relative_to(ROOT / house).parts[0].removesuffix(".py")
        if room in PUT_TOGETHER[house] or room == "__init__":
            continue
        for module in imported(path):
            if not module.startswith(prefix):
                continue
            name = module.removeprefix(prefix)
            other = name.split(".")[0]
            shared = any(name == each or name.startswith(f"{each}.") for each in SHARED[house])
            if (
                other != room
                and (room, other) not in BETWEEN[house]
                and (not shared or room in SHARED[house])
            ):
                strangers.add((path.relative_to(ROOT).as_posix(), module))
    assert not strangers


def test_modules_have_telling_names() -> None:
    """Words that say nothing, or that meant two things, name no module; ``docs/internals/words.md`` has the others."""
    names = [path.relative_to(ROOT).with_suffix("").parts for path in sources()]
    said = [part for parts in names for part in parts]
    assert not {"common", "internal", "lean", "kept", "setup", "util", "utils", "helpers", "misc"} & set(said)
    for once in ("answers", "refusals", "workers", "verdicts", "latest"):
        assert sum(parts[-1] == once for parts in names) == 1, once


def test_files_stay_small() -> None:
    scripts = sorted((ROOT / "query" / "page" / "static" / "js").rglob("*.js"))
    assert scripts
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (*sources(), *scripts)
        if (lines := path.read_text().count("\n")) > 400
    }
    assert not long, f"split before 400 lines: {long}"


def edges() -> Iterator[tuple[str, str]]:
    """Which module names which, also where it is only for types, or within a function."""
    modules = {module_of(path) for path in sources()}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((module_of(path), alias.name) for alias in node.names if alias.name in modules)
            elif isinstance(node, ast.ImportFrom) and node.module in modules:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield module_of(path), inner if inner in modules else node.module


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "runstream" else ("runstream", *parts)).removesuffix(".__init__")


def test_no_folder_holds_a_circle() -> None:
    """In each folder, what stands side by side (modules and folders) can be put in an order."""
    folders: dict[str, dict[str, set[str]]] = {}
    for source, target in edges():
        here, there = source.split("."), target.split(".")
        level = next((n for n, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), None)
        if level is not None:
            folders.setdefault(".".join(here[:level]), {}).setdefault(here[level], set()).add(there[level])
    assert len(folders) > 20
    for folder, arrows in folders.items():
        try:
            graphlib.TopologicalSorter(arrows).prepare()
        except graphlib.CycleError as circle:
            pytest.fail(f"{folder}: {' -> '.join(circle.args[1])}")
