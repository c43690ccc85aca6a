"""One table says which code is which status, and only what answers HTTP reads it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from runstream.schemas.errors import SHOWN_AS, MlflowError
from runstream.schemas.mlflow.statuses import STATUSES, is_repeated, passing, status_of

ROOT = Path(__file__).parents[4]
ROOMS = ("schemas", "ingest", "query", "runstream")
EDGES = ("ingest/gateway/", "query/http/", "runstream/process/")


def _sources() -> Iterator[tuple[str, ast.AST]]:
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            if not any(part.is_symlink() for part in path.parents):
                yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def test_mlflow_says_the_same_of_its_own_codes() -> None:
    from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS as THEIRS

    ours = {code: status for code, status in STATUSES.items() if code in THEIRS}
    assert len(ours) == 11
    assert ours == {code: THEIRS[code] for code in ours}
    assert set(SHOWN_AS.values()) <= set(THEIRS)
    assert not set(SHOWN_AS) & set(THEIRS)


def test_every_code_that_is_raised_stands_in_the_table() -> None:
    raised = set(SHOWN_AS)
    for _, tree in _sources():
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "MlflowError":
                raised |= {str(code.value) for code in call.args[1:] if isinstance(code, ast.Constant)}
    assert len(raised) > 10
    assert raised <= set(STATUSES)


def test_only_the_edges_read_it() -> None:
    readers = {
        name
        for name, tree in _sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "runstream.schemas.mlflow.statuses"
    }
    assert readers
    assert {name for name in readers if not name.startswith(EDGES)} == set()


@pytest.mark.parametrize(("nothing_done", "status"), [(True, 429), (False, 503)])
def test_what_passes_by_itself(nothing_done: bool, status: int) -> None:
    error = passing("the log is full", nothing_done=nothing_done)
    assert (status_of(error), error.error_code) == (status, "TEMPORARILY_UNAVAILABLE")
    assert is_repeated(error) is nothing_done


def test_a_code_that_nobody_knows_is_a_fault_of_ours() -> None:
    assert status_of(MlflowError("?", "NEW")) == 500
