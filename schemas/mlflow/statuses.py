"""The one table of statuses: which code of an error is which HTTP status.

Only what answers HTTP reads it (``ingest/gateway``, ``query/http``, ``runstream/process``); everything else raises an
error with a code and knows no status.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

from runstream.schemas.errors import MlflowError

STATUSES: Mapping[str, int] = MappingProxyType(
    {
        # MLflow's codes: mlflow.exceptions.ERROR_CODE_TO_HTTP_STATUS.
        "INVALID_PARAMETER_VALUE": 400,
        "RESOURCE_ALREADY_EXISTS": 400,
        "UNAUTHENTICATED": 401,
        "PERMISSION_DENIED": 403,
        "ENDPOINT_NOT_FOUND": 404,
        "RESOURCE_DOES_NOT_EXIST": 404,
        "RESOURCE_EXHAUSTED": 429,
        "INTERNAL_ERROR": 500,
        "INVALID_STATE": 500,
        "NOT_IMPLEMENTED": 501,
        "TEMPORARILY_UNAVAILABLE": 503,
        # Codes of Runstream's own: see schemas.errors.SHOWN_AS.
        "NOT_ACCEPTABLE": 406,
        "REQUEST_TIMEOUT": 408,
        "UPLOAD_BROKEN": 408,
        "BODY_TOO_LARGE": 413,
        "UNSUPPORTED_MEDIA_TYPE": 415,
        "RANGE_NOT_SATISFIABLE": 416,
        "NOTHING_DONE": 429,
        "HEAD_TOO_LARGE": 431,
        "HTTP_VERSION_NOT_SUPPORTED": 505,
    }
)
# The MLflow client repeats these by itself, and obeys the Retry-After that goes with them.
_REPEATED = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


def status_of(error: MlflowError) -> int:
    """The status that answers an error. A code that the table lacks is 500, as in MLflow."""
    return STATUSES.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)


def is_repeated(error: MlflowError) -> bool:
    """Whether a caller that is told ``Retry-After`` asks again by itself."""
    return status_of(error) in _REPEATED


def passing(message: str, *, nothing_done: bool) -> MlflowError:
    """What is said of a fault that passes by itself: 429 where surely nothing was done, else 503.

    From 3.18 on, MLflow's client repeats what creates something after a 429 only.
    """
    return MlflowError(f"{message}; try again", "NOTHING_DONE" if nothing_done else "TEMPORARILY_UNAVAILABLE")
