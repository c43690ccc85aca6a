"""A task has an owner: ``schemas.tasks``, or the function that began it and waits for it."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("schemas", "ingest", "query", "runstream")
# What waits for the tasks that it begins itself, or hands them their end: by module, how many it begins.
OWNERS = {
    "ingest/artifacts/upload.py": 1,
    "ingest/gateway/http/admission.py": 1,
    "ingest/gateway/http/connection.py": 1,
    "ingest/gateway/reads/routes.py": 1,
    "ingest/queue/kafka/barrier.py": 1,
    "ingest/queue/kafka/sender.py": 1,
    "ingest/writer/pipeline.py": 2,
    "query/http/streaming.py": 2,
    "runstream/importing/adoption.py": 1,
    "runstream/importing/move.py": 1,
    "runstream/process/probes.py": 1,
    "runstream/roles/storage.py": 1,
    "runstream/serve/child_output.py": 1,
    "runstream/serve/set.py": 1,
    "runstream/serve/supervisor.py": 4,
    "schemas/tasks.py": 4,
}


def test_new_tasks_are_begun_through_their_one_owner() -> None:
    found: dict[str, int] = {}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            if any(part.is_symlink() for part in path.parents):
                continue
            begun = sum(_begins(node) for node in ast.walk(ast.parse(path.read_text())))
            if begun:
                found[path.relative_to(ROOT).as_posix()] = begun
    assert found == OWNERS, "use Tasks, kept_running or shared of schemas.tasks, or a TaskGroup"


def _begins(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    in_group = isinstance(node.func.value, ast.Name) and node.func.value.id == "tasks"
    return node.func.attr in ("create_task", "ensure_future") and not in_group
