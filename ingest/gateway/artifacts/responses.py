"""Answers of the artifact routes, with the headers and bodies of MLflow 3.17."""

from __future__ import annotations

import json
import mimetypes
import posixpath
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from aiohttp import web

from runstream.ingest.artifacts.errors import (
    ArtifactTooLargeError,
    BrokenUploadError,
    InvalidPathError,
    NoSuchArtifactError,
    NotAFileError,
    RangeError,
    UnsupportedError,
)
from runstream.ingest.artifacts.protocol import Entry
from runstream.ingest.gateway.http.refusals import retry_after
from runstream.schemas.errors import MlflowError, RunstreamError
from runstream.schemas.mlflow.statuses import STATUSES, is_repeated, passing, status_of

JSON = "application/json"
# What MLflow's server puts on every answer (mlflow.server.fastapi_security).
SECURITY_HEADERS = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "SAMEORIGIN"}

# mlflow.utils.mime_type_utils: shown as text, whatever the system's table of types says.
_TEXT = frozenset(
    (
        *(
            "txt",
            "log",
            "err",
            "cfg",
            "conf",
            "cnf",
            "cf",
            "ini",
            "properties",
            "prop",
            "hocon",
            "toml",
            "yaml",
        ),
        *("yml", "xml", "json", "js", "py", "py3", "csv", "tsv", "md", "rst", "ipynb"),
        *("MLmodel", "mlproject"),
    )
)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)")
_RANGE_DIGITS = 19


def empty() -> web.Response:
    """What an upload answers."""
    return web.Response(status=200, headers=SECURITY_HEADERS)


def of_json(value: Any, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(
        status=status,
        body=json.dumps(value).encode(),
        headers={"Content-Type": JSON, **SECURITY_HEADERS},
    )


def listing(
    entries: Sequence[Entry], *, below: str | None = None, root_uri: str | None = None
) -> dict[str, Any]:
    """MLflow's ``ListArtifacts.Response``: as protobuf prints it, without empty lists and sizes of 0."""
    answer: dict[str, Any] = {}
    if root_uri is not None:
        answer["root_uri"] = root_uri
    files = []
    for entry in entries:
        file: dict[str, Any] = {
            "path": f"{below}/{entry.name}" if below else entry.name,
            "is_dir": entry.is_dir,
        }
        if entry.size:
            file["file_size"] = entry.size
        files.append(file)
    if files:
        answer["files"] = files
    return answer


def of_error(error: RunstreamError, retry_after_s: int, *, detail: bool = False) -> web.Response:
    """The answer for an error. ``detail``: MLflow's proxy routes answer some of them in FastAPI's shape."""
    message = str(error)
    headers: dict[str, str] = {"Content-Type": JSON, **SECURITY_HEADERS}
    match error:
        case NotAFileError() if detail:
            return of_json({"detail": message}, STATUSES["INVALID_PARAMETER_VALUE"])
        case InvalidPathError() if detail and message.startswith("Artifact path must"):
            return of_json({"detail": message}, STATUSES["INVALID_PARAMETER_VALUE"])
        case InvalidPathError() | NotAFileError():
            meant = MlflowError(message)
        case NoSuchArtifactError():
            meant = MlflowError(message, "RESOURCE_DOES_NOT_EXIST")
        case ArtifactTooLargeError():
            meant = MlflowError(message, "BODY_TOO_LARGE")
        case RangeError():
            return web.Response(
                status=STATUSES["RANGE_NOT_SATISFIABLE"],
                headers={"Content-Range": f"bytes */{error.size}", **SECURITY_HEADERS},
            )
        case UnsupportedError():
            # Without sqlstate, as MLflow prints this code; clients look at the message.
            return of_json({"error_code": "NOT_IMPLEMENTED", "message": message}, STATUSES["NOT_IMPLEMENTED"])
        case BrokenUploadError():
            # Which the MLflow client repeats by itself.
            meant = MlflowError(message, "UPLOAD_BROKEN")
        case MlflowError():
            meant = error
            if is_repeated(error):
                headers["Retry-After"] = str(retry_after_s)
        case _ if not error.retryable:  # the operator must act, and trying again does not help
            meant = MlflowError(message, "INTERNAL_ERROR")
        case _:
            headers["Retry-After"] = retry_after(error, retry_after_s)
            meant = passing(message, nothing_done=error.nothing_done)
    return web.Response(status=status_of(meant), body=meant.body(), headers=headers)


def file_headers(path: str) -> dict[str, str]:
    """Headers of a download: never shown by a browser in place, whatever it holds."""
    return {
        "Content-Type": mime_type(path),
        "Content-Disposition": disposition(posixpath.basename(path)),
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-cache",
        **SECURITY_HEADERS,
    }


def mime_type(path: str) -> str:
    """As ``mlflow.utils.mime_type_utils._guess_mime_type``."""
    name = posixpath.basename(path)
    extension = posixpath.splitext(name)[1].replace(".", "") or name
    if extension in _TEXT:
        return "text/plain"
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def disposition(name: str) -> str:
    """As ``mlflow.server.handlers._content_disposition_attachment`` (RFC 6266, RFC 5987)."""
    if name.isascii():
        return f"attachment; filename={_quoted(name)}"
    fallback = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii") or "download"
    encoded = quote(name.encode("utf-8", "replace"), safe="!#$&+-.^_`|~")
    return f"attachment; filename={_quoted(fallback)}; filename*=UTF-8''{encoded}"


def not_modified(headers: Mapping[str, str], etag: str | None) -> bool:
    """Whether ``If-None-Match`` names this version (weak comparison, RFC 9110)."""
    wanted = headers.get("If-None-Match")
    if wanted is None or etag is None:
        return False
    if wanted.strip() == "*":
        return True
    bare = etag.removeprefix("W/")
    return any(one.strip().removeprefix("W/") == bare for one in wanted.split(","))


def wanted_range(headers: Mapping[str, str], size: int, etag: str | None) -> tuple[int, int] | None:
    """The one range of bytes (end excluded) that is wanted, or ``None`` for everything: several ranges, other units
    and a range of another version are answered with the whole, as RFC 9110 allows. Raises ``RangeError`` if there
    is nothing at that place, and ``MlflowError`` for a range that ends before it starts."""
    header = headers.get("Range")
    if header is None:
        return None
    if "If-Range" in headers and headers["If-Range"].strip() != etag:
        return None
    found = _RANGE.fullmatch(header.replace(" ", ""))
    if found is None or not (found[1] or found[2]):
        return None
    if max(len(found[1]), len(found[2])) > _RANGE_DIGITS:
        raise MlflowError("Range header: no artifact is that long")
    if not found[1]:
        length = int(found[2])
        if length == 0 or size == 0:
            raise RangeError(size)
        return max(0, size - length), size
    start = int(found[1])
    end = int(found[2]) + 1 if found[2] else size
    if end <= start and found[2]:
        raise MlflowError("Range header: start must be less than end")
    if start >= size:
        raise RangeError(size)
    return start, min(end, size)


def _quoted(name: str) -> str:
    if _TOKEN.fullmatch(name):
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
