"""Answers in MLflow's shape for what goes wrong at the gateway."""

from __future__ import annotations

import logging
import random
from http import HTTPStatus

from aiohttp import web

from runstream.ingest.control.database.reads import MetadataUnavailableError
from runstream.ingest.gateway.http.admission import RefusedError
from runstream.ingest.gateway.http.upstream import UpstreamUnavailableError
from runstream.schemas.errors import MlflowError, QueueFullError, QueueUnavailableError, RunstreamError
from runstream.schemas.mlflow.statuses import is_repeated, passing, status_of

_log = logging.getLogger(__name__)
JSON = "application/json"
_LONGEST_RETRY_AFTER_S = 30


def ok() -> web.Response:
    """What both of MLflow's metric writes answer."""
    return web.Response(body=b"{}", headers={"Content-Type": JSON, "X-Content-Type-Options": "nosniff"})


def refusal(error: Exception, retry_after_s: int) -> web.Response:
    """``parts`` as a response."""
    status, headers, body = parts(error, retry_after_s)
    return web.Response(status=status, body=body, headers=headers)


def parts(error: Exception, retry_after_s: int) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body for an error.

    For all that passes by itself there is ``Retry-After``, which the MLflow client obeys: 429 where surely nothing was
    done, 503 where something may have been. From 3.18 on, MLflow's client repeats what creates something after a 429
    only. ``retry_after_s`` is the least that it waits.

    An error that nobody expected is logged, and answered as MLflow answers its own.
    """
    match error:
        case RefusedError():
            answer = error.answer
            return answer.status, {"Content-Type": answer.content_type, **answer.headers}, answer.body
        case MlflowError():
            again = {"Retry-After": str(retry_after_s)} if is_repeated(error) else {}
            return status_of(error), {"Content-Type": JSON, **again}, error.body()
        case (
            QueueFullError()
            | QueueUnavailableError()
            | UpstreamUnavailableError()
            | MetadataUnavailableError()
        ):
            away = passing(str(error), nothing_done=error.nothing_done)
            return (
                status_of(away),
                {"Content-Type": JSON, "Retry-After": retry_after(error, retry_after_s)},
                away.body(),
            )
        case web.HTTPRequestEntityTooLarge():
            told = MlflowError("The request body is too large", "BODY_TOO_LARGE")
        case _:
            _log.error("a request failed", exc_info=error)
            told = MlflowError("Internal server error", "INTERNAL_ERROR")
    return status_of(told), {"Content-Type": JSON}, told.body()


def retry_after(error: RunstreamError, least_s: int) -> str:
    """Seconds after which to try again: as long as what is missing has been away, within bounds, and a little more or
    less so that not all come at once. MLflow's client tries seven times: minutes, from the beginning of an outage."""
    wait_s = min(max(least_s, error.away_s), max(least_s, _LONGEST_RETRY_AFTER_S))
    return str(int(wait_s * (1 + random.random() / 5)))


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
