"""Read-only SQL over the metrics view: ``POST /api/1.0/runstream/sql``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web

from runstream.query.api.requests import Compression
from runstream.query.http.decode import decode
from runstream.query.http.formats import negotiate
from runstream.query.sql.guard import MAX_TEXT, check_parameters, check_text
from runstream.schemas.errors import MlflowError
from runstream.schemas.ports.barrier import Barrier
from runstream.schemas.ports.statements import Scalar, Statement, Statements
from runstream.schemas.tasks import while_wanted
from runstream.schemas.wire import API, STALE_HEADER

_OFF = "SQL is switched off on this server (RUNSTREAM_SQL)"


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
    """The handler; without ``statements`` the route says that it is off."""

    def __init__(self, statements: Statements | None, barrier: Barrier, *, barrier_timeout_s: float) -> None:
        self._statements = statements
        self._barrier = barrier
        self._barrier_timeout_s = barrier_timeout_s

    def add_to(self, app: web.Application) -> None:
        """Mount the route."""
        app.router.add_post(f"{API}/sql", self.sql)

    async def sql(self, request: web.Request) -> web.Response:
        """The result of a query, whole: it is bounded. A caller that leaves ends it."""
        if self._statements is None:
            raise MlflowError(_OFF, "PERMISSION_DENIED")
        wanted = await decode(request, SqlRequest)
        chosen = negotiate(request.headers.get("Accept"))
        check_parameters(check_text(wanted.query), wanted.parameters)
        statement = Statement(
            query=wanted.query,
            parameters=wanted.parameters,
            format=chosen.name,
            compression=wanted.compression,
        )
        headers = chosen.headers
        if not await self._barrier.wait(None, self._barrier_timeout_s, newest=False):
            headers[STALE_HEADER] = "true"
        body = await while_wanted(self._statements.answer(statement), lambda: _has_left(request))
        return web.Response(body=body, headers=headers)


def _has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()
