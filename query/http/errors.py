"""Answers for what goes wrong in the query service: the only place here that makes statuses of errors."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from runstream.query.http.workers import BusyError
from runstream.schemas.errors import MlflowError
from runstream.schemas.mlflow.statuses import passing, status_of
from runstream.schemas.ports.database import DatabaseError
from runstream.schemas.wire import STALE_HEADER

JSON = "application/json"
# MLflow's client obeys it, and tries seven times: minutes.
_RETRY_AFTER = {"Retry-After": "20"}
# ClickHouse: ATTEMPT_TO_READ_AFTER_EOF, CANNOT_READ_ALL_DATA, CHECKSUM_DOESNT_MATCH, FILE_DOESNT_EXIST, CORRUPTED_DATA,
# CANNOT_DECOMPRESS.
_DAMAGED = (32, 33, 40, 107, 246, 271)
_log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def json_answer(body: bytes, *, fresh: bool = True) -> web.Response:
    """JSON as MLflow sends it; a stale answer says so in a header."""
    headers = {"Content-Type": JSON, "X-Content-Type-Options": "nosniff"}
    if not fresh:
        headers[STALE_HEADER] = "true"
    return web.Response(body=body, headers=headers)


def failure(error: MlflowError, headers: dict[str, str] | None = None) -> web.Response:
    """An error in MLflow's shape."""
    return web.Response(
        status=status_of(error), body=error.body(), headers={"Content-Type": JSON, **(headers or {})}
    )


@web.middleware
async def errors_to_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn the errors that reads raise into answers. For what passes by itself there is ``Retry-After``: 429 where too
    much is asked at once, 503 while the database is away, which the gateway waits out."""
    try:
        return await handler(request)
    except MlflowError as error:
        return failure(error)
    except BusyError as error:
        return failure(passing(str(error), nothing_done=True), _RETRY_AFTER)
    except DatabaseError as error:
        _log.warning("a read failed", extra={"path": request.path, "code": error.code, "error": str(error)})
        # The server's own engine has its parts repaired (runstream.clickhouse.part_guard), in a second or two.
        damaged = error.code in _DAMAGED
        if damaged or error.retryable:
            what = "A part of the points cannot be read now" if damaged else "ClickHouse is away"
            return failure(passing(what, nothing_done=False), _RETRY_AFTER)
        return failure(MlflowError("ClickHouse could not answer", "INTERNAL_ERROR"))
