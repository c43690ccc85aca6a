"""Private names of the packages that we build on: each is used in one room only, and is there in what is installed.

An upgrade that takes one away fails here first. The upper bounds of these packages in ``pyproject.toml`` are there for
the same reason: a new release is taken once this file has passed with it.
"""

from __future__ import annotations

import ast
import importlib
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = {"aiohttp", "aiokafka", "chdb", "mlflow", "obstore"}
_SOURCES = ("ingest", "query", "schemas", *(f"runstream/{room}" for room in ("clickhouse", "commands")))
_SOURCES += tuple(f"runstream/{room}" for room in ("process", "roles", "serve"))
# Python's own: a named tuple's way to change, and a look at the caller.
_PYTHONS = {"_replace", "_getframe"}

DOORS: dict[str, set[str]] = {
    "ingest/client": {
        "_tracking_service", "_get_rest_store", "_generate_random_name", "_call_endpoint",
        "_model_registry", "_METHOD_TO_INFO",
    },
    "ingest/gateway/http": {"_waiter", "_current_request", "_messages", "_ErrInfo"},
    "ingest/queue/kafka": {"_client", "_message_accumulator", "_pending_batches", "_batches", "_drain_waiter"},
    "query/plugin": {"_validate_metric", "_hard_delete_run", "_hard_delete_experiment"},
    "runstream/roles": {"_upgrade_db", "_get_latest_schema_revision", "_exec_cmd"},
}  # fmt: skip

_MLFLOW = (
    ("mlflow.tracking._tracking_service.utils", "_get_rest_store"),
    ("mlflow.tracking._tracking_service.utils", "_tracking_store_registry._get_store_with_resolved_uri"),
    ("mlflow.tracking._model_registry.utils", "_get_rest_store"),
    ("mlflow.tracking._model_registry.registry", "ModelRegistryStoreRegistry._get_store_with_resolved_uri"),
    ("mlflow.store.tracking.rest_store", "RestStore._METHOD_TO_INFO"),
    ("mlflow.utils.name_utils", "_generate_random_name"),
    ("mlflow.store.tracking.rest_store", "RestStore._call_endpoint"),
    ("mlflow.utils.validation", "_validate_metric"),
    ("mlflow.store.tracking.sqlalchemy_store", "SqlAlchemyStore._hard_delete_run"),
    ("mlflow.store.tracking.sqlalchemy_store", "SqlAlchemyStore._hard_delete_experiment"),
    ("mlflow.store.db.utils", "_upgrade_db"),
    ("mlflow.store.db.utils", "_get_latest_schema_revision"),
    ("mlflow.server", "_exec_cmd"),
)


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def _used(tree: ast.Module) -> Iterator[str]:
    """Private names that a module takes from the packages, or from objects while it imports one of the packages."""
    imports = False
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in _PACKAGES:
            imports = True
            yield from (name for name in (node.module or "").split(".") if _is_private(name))
            yield from (alias.name for alias in node.names if _is_private(alias.name))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in _PACKAGES:
                    imports = True
                    yield from (name for name in alias.name.split(".") if _is_private(name))
    if not imports:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not own:
                yield node.attr


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def test_private_names_of_packages_are_used_behind_their_doors_only() -> None:
    found: dict[str, set[str]] = {}
    for source in _SOURCES:
        trees = {file: ast.parse(file.read_text()) for file in sorted((_ROOT / source).rglob("*.py"))}
        for file, tree in trees.items():
            ours = {name for other, t in trees.items() if other.parent == file.parent for name in _defined(t)}
            names = set(_used(tree)) - _PYTHONS - (ours - set().union(*DOORS.values()))
            if names:
                found.setdefault(str(file.parent.relative_to(_ROOT)), set()).update(names)
    assert found == DOORS


@pytest.mark.parametrize(("module", "name"), _MLFLOW)
def test_mlflow_has_what_we_use(module: str, name: str) -> None:
    held: object = importlib.import_module(module)
    for step in name.split("."):
        held = getattr(held, step)
    assert held is not None


async def test_aiokafka_has_what_we_use() -> None:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
    from aiokafka.producer.message_accumulator import MessageBatch

    consumer = AIOKafkaConsumer(bootstrap_servers="127.0.0.1:1")
    producer = AIOKafkaProducer(bootstrap_servers="127.0.0.1:1")
    held = producer._message_accumulator
    assert consumer._client is not None
    assert len(held._batches) == 0
    assert len(held._pending_batches) == 0
    assert "_drain_waiter" in MessageBatch.__init__.__code__.co_names
    assert TopicPartition("a", 0) not in held._batches
    await producer.stop()
    await consumer.stop()


def test_aiohttp_has_what_we_use() -> None:
    from aiohttp.web_protocol import RequestHandler, _ErrInfo

    assert DOORS["ingest/gateway/http"] - {"_ErrInfo"} <= set(RequestHandler.__slots__)
    assert isinstance(_ErrInfo, type)


def test_what_we_know_the_inside_of_has_an_upper_bound() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    for package in sorted(_PACKAGES):
        named = [line for line in wanted if line.split(">")[0].split("[")[0] == package]
        assert named, package
        assert all("<" in line for line in named), package
