"""Answers in MLflow's shape for what goes wrong at the gateway."""

from __future__ import annotations

from aiohttp import web

from ingest.gateway.admission import RefusedError
from ingest.gateway.upstream import UpstreamUnavailableError
from schemas.errors import MlflowError, QueueFullError, QueueUnavailableError

JSON = "application/json"


def ok() -> web.Response:
    """What both of MLflow's metric writes answer."""
    return web.Response(body=b"{}", headers={"Content-Type": JSON, "X-Content-Type-Options": "nosniff"})


def refusal(error: Exception, retry_after_s: int) -> web.Response:
    """The answer for an error that a route expects; raises the error again if it is none of these.

    503 with ``Retry-After`` for all that passes by itself: the MLflow client then tries again on its own.
    """
    match error:
        case RefusedError():
            return error.answer.response()
        case MlflowError():
            return web.Response(status=error.status, body=error.body(), headers={"Content-Type": JSON})
        case QueueFullError() | QueueUnavailableError() | UpstreamUnavailableError():
            answer = MlflowError(f"{error}; try again", "TEMPORARILY_UNAVAILABLE", 503)
            return web.Response(
                status=503,
                body=answer.body(),
                headers={"Content-Type": JSON, "Retry-After": str(retry_after_s)},
            )
        case web.HTTPRequestEntityTooLarge():
            too_large = MlflowError("The request body is too large", "INVALID_PARAMETER_VALUE", 413)
            return web.Response(status=413, body=too_large.body(), headers={"Content-Type": JSON})
    raise error


def reason(error: Exception) -> str:
    """One word for the counter of refusals."""
    match error:
        case RefusedError():
            return "verdict"
        case MlflowError():
            return "invalid"
        case QueueFullError():
            return "queue_full"
        case QueueUnavailableError():
            return "queue_away"
        case UpstreamUnavailableError():
            return "tracking_away"
        case web.HTTPRequestEntityTooLarge():
            return "too_large"
    return "other"
