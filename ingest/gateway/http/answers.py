"""Answers in MLflow's shape for what goes wrong at the gateway."""

from __future__ import annotations

import logging
from http import HTTPStatus

from aiohttp import web

from runstream.ingest.control.database.reads import MetadataUnavailableError
from runstream.ingest.gateway.http.upstream import UpstreamUnavailableError
from runstream.ingest.gateway.writes.admission import RefusedError
from runstream.schemas.errors import MlflowError, QueueFullError, QueueUnavailableError

_log = logging.getLogger(__name__)
JSON = "application/json"


def ok() -> web.Response:
    """What both of MLflow's metric writes answer."""
    return web.Response(body=b"{}", headers={"Content-Type": JSON, "X-Content-Type-Options": "nosniff"})


def refusal(error: Exception, retry_after_s: int) -> web.Response:
    """``parts`` as a response."""
    status, headers, body = parts(error, retry_after_s)
    return web.Response(status=status, body=body, headers=headers)


def parts(error: Exception, retry_after_s: int) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body for an error.

    503 with ``Retry-After`` for all that passes by itself: the MLflow client then tries again on its own. An error
    that nobody expected is logged, and answered as MLflow answers its own.
    """
    match error:
        case RefusedError():
            answer = error.answer
            return answer.status, {"Content-Type": answer.content_type, **answer.headers}, answer.body
        case MlflowError():
            again = {"Retry-After": str(retry_after_s)} if error.status in (408, 429) else {}
            return error.status, {"Content-Type": JSON, **again}, error.body()
        case (
            QueueFullError()
            | QueueUnavailableError()
            | UpstreamUnavailableError()
            | MetadataUnavailableError()
        ):
            away = MlflowError(f"{error}; try again", "TEMPORARILY_UNAVAILABLE", 503)
            return 503, {"Content-Type": JSON, "Retry-After": str(retry_after_s)}, away.body()
        case web.HTTPRequestEntityTooLarge():
            return 413, {"Content-Type": JSON}, MlflowError("The request body is too large").body()
    _log.error("a request failed", exc_info=error)
    return 500, {"Content-Type": JSON}, MlflowError("Internal server error", "INTERNAL_ERROR", 500).body()


def phrase(status: int) -> str:
    """The reason phrase of a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


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
        case MetadataUnavailableError():
            return "metadata_away"
        case web.HTTPRequestEntityTooLarge():
            return "too_large"
    return "other"
