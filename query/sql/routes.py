"""Read-only SQL over the metrics view: ``POST /api/1.0/runstream/sql``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import pyarrow as pa
from aiohttp import web

from runstream.query.api.requests import Compression
from runstream.query.api.routes import decode
from runstream.query.http.errors import asks_too_much
from runstream.query.http.formats import Format, negotiate
from runstream.query.http.workers import Workers
from runstream.query.sql.guard import (
    MAX_TEXT,
    check_parameters,
    check_text,
    check_tree,
    refuse,
    with_names,
    wrapped,
)
from runstream.schemas.errors import MlflowError
from runstream.schemas.ports.barrier import Barrier
from runstream.schemas.ports.database import Database, DatabaseError
from runstream.schemas.wire import API, STALE_HEADER

_LIMITS: Mapping[str, Any] = {
    "max_memory_usage": 1 << 30,
    "max_threads": 2,
    "max_result_rows": 1_000_000,
    "max_result_bytes": 256 << 20,
    "result_overflow_mode": "throw",
    "max_rows_to_read": 1_000_000_000,
    "max_ast_depth": 200,
    "max_expanded_ast_elements": 20_000,
    # Or the order of the user's query would be lost in the one around it.
    "query_plan_remove_redundant_sorting": 0,
}

Scalar = str | int | float | bool | None


class SqlRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A SELECT over ``metrics(run_id, key, step, timestamp, value)`` in ClickHouse's dialect."""

    query: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=MAX_TEXT,
            description="One SELECT. `{name:Type}` takes its value from `parameters`; texts are in single quotes.",
        ),
    ]
    parameters: dict[str, Scalar | list[Scalar]] = {}
    compression: Compression = "lz4"


class SqlRoute:
    """The handler; ``max_query_s`` bounds a query."""

    def __init__(
        self,
        database: Database,
        workers: Workers,
        barrier: Barrier,
        *,
        barrier_timeout_s: float,
        max_query_s: float,
    ) -> None:
        self._database = database
        self._workers = workers
        self._barrier = barrier
        self._barrier_timeout_s = barrier_timeout_s
        self._limits = {**_LIMITS, "max_execution_time": max_query_s, "readonly": 1}

    def add_to(self, app: web.Application) -> None:
        """Mount the route."""
        app.router.add_post(f"{API}/sql", self.sql)

    async def sql(self, request: web.Request) -> web.Response:
        """The result of a query, whole: it is bounded."""
        wanted = await decode(request, SqlRequest)
        chosen = negotiate(request.headers.get("Accept"))
        check_parameters(check_text(wanted.query), wanted.parameters)
        headers = chosen.headers
        if not await self._barrier.wait(None, self._barrier_timeout_s, newest=False):
            headers[STALE_HEADER] = "true"
        body = await self._workers.run(self._body, wanted, chosen)
        return web.Response(body=body, headers=headers)

    def _body(self, wanted: SqlRequest, chosen: Format) -> bytes:
        table = self._run(wanted.query, wanted.parameters)
        return b"".join(chosen.write(table.schema, table.to_batches(), wanted.compression))

    def _run(self, text: str, parameters: Mapping[str, Any]) -> pa.Table:
        known = self._database.arrow(
            "SELECT currentDatabase() AS place, name FROM system.tables WHERE database = currentDatabase()"
        )
        own_names = with_names(text)
        if own_names & set(known.column("name").to_pylist()):
            raise refuse("WITH must not define the name of a table")
        place = known.column("place")[0].as_py()
        try:
            tree = self._database.arrow(f"SELECT * FROM (EXPLAIN AST {wrapped(text)})", parameters or None)
            check_tree(tree.column(0).to_pylist(), own_names)
            # FINAL, because here repeats would be counted; and the name that the query knows is this view's
            # alone.
            return self._database.arrow(
                "WITH metrics AS (SELECT run_id, key, step, timestamp, value"
                f" FROM `{place}`.metrics FINAL) {wrapped(text)}",
                parameters or None,
                self._limits,
            )
        except DatabaseError as error:
            if error.code is None or (error.retryable and not asks_too_much(error)):
                raise
            raise MlflowError(f"ClickHouse says: {str(error)[:1000]}") from error
