"""Checks a statement of a user, runs it, and writes its result. Blocks: who calls it decides where."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from runstream.query.http.formats import FORMATS
from runstream.query.sql.guard import check_tree, refuse, with_names, wrapped
from runstream.schemas.errors import MlflowError
from runstream.schemas.ports.database import Database, DatabaseError
from runstream.schemas.ports.statements import Statement

MAX_THREADS = 2
_LIMITS: Mapping[str, Any] = {
    "max_memory_usage": 1 << 30,
    "max_threads": MAX_THREADS,
    "max_result_rows": 1_000_000,
    "max_result_bytes": 256 << 20,
    "result_overflow_mode": "throw",
    "max_rows_to_read": 1_000_000_000,
    "max_ast_depth": 200,
    "max_expanded_ast_elements": 20_000,
    # Or the order of the user's query would be lost in the one around it.
    "query_plan_remove_redundant_sorting": 0,
    "readonly": 1,
}
_MAX_REASON = 500
_OF_ITSELF = re.compile(r"[.:] (?:In scope|[Ww]hile executing|Expected one of)\b")


def answer(
    database: Database, statement: Statement, *, max_query_s: float, settings: Mapping[str, Any] | None = None
) -> bytes:
    """The result of a statement whose text and parameters were checked, in its format.

    ``max_query_s`` is looked at by ClickHouse between blocks; ``settings`` come on top. Raises ``MlflowError`` for what
    the statement is to blame for, and ``DatabaseError``.
    """
    limits = {**_LIMITS, "max_execution_time": max_query_s, **(settings or {})}
    table = _run(database, statement.query, statement.parameters, limits)
    write = FORMATS[statement.format].write
    return b"".join(write(table.schema, table.to_batches(), statement.compression))


def _run(database: Database, text: str, parameters: Mapping[str, Any], limits: Mapping[str, Any]) -> pa.Table:
    known = database.arrow(
        "SELECT currentDatabase() AS place, name FROM system.tables WHERE database = currentDatabase()"
    )
    own_names = with_names(text)
    if own_names & set(known.column("name").to_pylist()):
        raise refuse("WITH must not define the name of a table")
    place = known.column("place")[0].as_py()
    try:
        tree = database.arrow(f"SELECT * FROM (EXPLAIN AST {wrapped(text)})", parameters or None)
        check_tree(tree.column(0).to_pylist(), own_names)
        # FINAL, because here repeats would be counted; and the name that the query knows is this view's alone.
        return database.arrow(
            "WITH metrics AS (SELECT run_id, key, step, timestamp, value"
            f" FROM `{place}`.metrics FINAL) {wrapped(text)}",
            parameters or None,
            limits,
        )
    except DatabaseError as error:
        if error.code is None or (error.retryable and not error.asks_too_much):
            raise
        raise MlflowError(f"ClickHouse says: {_reason(error)}") from error


def _reason(error: DatabaseError) -> str:
    """What ClickHouse says of the statement, without what it says of itself."""
    text = str(error).removeprefix(f"Code: {error.code}. ").removeprefix("DB::Exception: ")
    return _OF_ITSELF.split(text, maxsplit=1)[0][:_MAX_REASON]
