"""Errors that cross a boundary between parts.

Each says whether trying again can help (``retryable``), and whether it is safe (``nothing_done``). Only the HTTP edge
turns them into status codes.
"""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import ClassVar, Final


class RunstreamError(Exception):
    """Base of every error that Runstream raises on purpose.

    ``nothing_done`` tells that surely nothing has been done of what was asked, or that doing it twice is the same as
    once. ``away_s`` is how long what is missing has been away, in seconds, where somebody knows.
    """

    retryable = False
    nothing_done = False
    away_s = 0.0


class QueueFullError(RunstreamError):
    """The queue holds as many unconsumed bytes as its bound allows; the reader is slow or away."""

    retryable = True
    nothing_done = True


class QueueUnavailableError(RunstreamError):
    """The queue cannot make a record durable now (disk full, broker away, deadline passed).

    It may hold the points all the same: identical points are one point.
    """

    retryable = True
    nothing_done = True


class BadRecordError(RunstreamError):
    """A queue record cannot be decoded: wrong version, truncated, or inconsistent."""


class ConfigError(RunstreamError):
    """A setting is wrong or a needed part is missing; the message is one line and says what to do."""


# Codes of Runstream's own, for what MLflow has one code but HTTP has statuses of its own: what clients are shown.
SHOWN_AS: Final = MappingProxyType(
    {
        "NOT_ACCEPTABLE": "INVALID_PARAMETER_VALUE",
        "BODY_TOO_LARGE": "INVALID_PARAMETER_VALUE",
        "HEAD_TOO_LARGE": "INVALID_PARAMETER_VALUE",
        "UNSUPPORTED_MEDIA_TYPE": "INVALID_PARAMETER_VALUE",
        "HTTP_VERSION_NOT_SUPPORTED": "INVALID_PARAMETER_VALUE",
        "UPLOAD_BROKEN": "TEMPORARILY_UNAVAILABLE",
        "NOTHING_DONE": "TEMPORARILY_UNAVAILABLE",
    }
)


class MlflowError(RunstreamError):
    """An answer in MLflow's own error shape.

    ``code`` is one of MLflow's (``INVALID_PARAMETER_VALUE``, …) or one of Runstream's own, finer ones (``SHOWN_AS``);
    ``schemas.mlflow.statuses`` has the HTTP status of each. ``error_code`` is what clients are shown, and ``body()`` is
    byte-compatible with ``MlflowException.serialize_as_json`` of MLflow 3.17.
    """

    # mlflow.exceptions: the error class is the code, but for these.
    _CLASSES: ClassVar[dict[str, str]] = {"RESOURCE_DOES_NOT_EXIST": "RESOURCE_NOT_FOUND"}

    def __init__(self, message: str, code: str = "INVALID_PARAMETER_VALUE") -> None:
        super().__init__(message)
        self.message = message
        self.code = code

    @property
    def error_code(self) -> str:
        """The code in the answer, which MLflow's clients know."""
        return SHOWN_AS.get(self.code, self.code)

    def body(self) -> bytes:
        """The JSON body of the answer, UTF-8."""
        return json.dumps(
            {
                "error_code": self.error_code,
                "message": self.message,
                "sqlstate": "KAM00",
                "error_class": self._CLASSES.get(self.error_code, self.error_code),
            }
        ).encode()
