"""Artifact paths: made canonical in this one place, before anything else looks at them.

The rules are those of ``mlflow.utils.uri.validate_path_is_safe`` (3.17), which the MLflow client applies to listings
as well: escapes are resolved until none is left, so that no later layer can find another meaning in a path, and
what would leave the root is refused. The canonical path is never decoded again.
"""

from __future__ import annotations

import os
import posixpath
import unicodedata
from pathlib import PureWindowsPath
from urllib.parse import unquote, urlparse, urlunparse

from runstream.ingest.artifacts.errors import InvalidPathError

# Uploads under way in a folder have this prefix, which MLflow's own server hides as well
# (mlflow.store.artifact.local_artifact_repo).
TEMPORARY_PREFIX = ".artifact.uploading."
_MAX_DECODINGS = 10
_MAX_BYTES = 4096
_INVALID = "Invalid path"


def canonical(raw: str) -> str:
    """The one meaning of a path from a request, relative to the root; ``""`` is the root itself.

    Raises ``InvalidPathError`` with MLflow's message for whatever could leave the root.
    """
    path = _escape_control_characters(_decode(raw))
    if "#" in path or path[:5].lower() == "file:":
        raise InvalidPathError(_INVALID)
    _refuse_escapes(path)
    # A name that some later layer may fold to ASCII (a file system, a browser) must be harmless folded, too.
    folded = unicodedata.normalize("NFKC", path)
    if folded != path:
        _refuse_escapes(folded)
    normal = posixpath.normpath(path) if path else "."
    if len(normal.encode("utf-8", "surrogatepass")) > _MAX_BYTES:
        raise InvalidPathError("Invalid path: it is too long")
    return "" if normal == "." else normal


def destination(raw: str) -> str:
    """The canonical path of an upload: as ``canonical``, and it must name a file, unambiguously.

    MLflow refuses a directory part that is not normal (``a//b``, ``a/./b``) instead of guessing.
    """
    path = canonical(raw)
    decoded = _escape_control_characters(_decode(raw))
    head, name = posixpath.split(decoded)
    if not name or name == ".":
        raise InvalidPathError("Artifact path must include a filename (cannot end with '/').")
    if head and (posixpath.normpath(head) != head or head == "."):
        raise InvalidPathError(
            f"Invalid artifact path: '{head}'. Names may be treated as files in certain cases, and must not resolve "
            f"to other names when treated as such. This name would resolve to {posixpath.normpath(head)!r}"
        )
    if name.startswith(TEMPORARY_PREFIX):
        raise InvalidPathError(
            f"Invalid artifact file name: '{name}'. Artifact names starting with '{TEMPORARY_PREFIX}' are reserved."
        )
    return path


def join(*parts: str | None) -> str:
    """Join canonical parts, leaving out empty ones."""
    return "/".join(part for part in parts if part)


def _decode(path: str) -> str:
    # As MLflow's _decode: a fixed point of unquoting, and of urlparse, which drops an empty query or fragment.
    for _ in range(_MAX_DECODINGS):
        try:
            # Strictly, where MLflow puts U+FFFD for what is no UTF-8: two names would be one file.
            decoded = urlunparse(urlparse(unquote(path, errors="strict")))
        except ValueError as error:
            raise InvalidPathError(_INVALID) from error
        if decoded == path:
            return path
        path = decoded
    raise InvalidPathError(_INVALID)


def _escape_control_characters(text: str) -> str:
    return "".join(f"%{ord(c):02x}" if ord(c) < 32 or ord(c) == 127 else c for c in text)


def _refuse_escapes(path: str) -> None:
    # MLflow takes a backslash as part of a name except on Windows; but stores differ (SeaweedFS makes it a slash), and
    # a path must mean the same everywhere.
    if (
        "\\" in path
        or ".." in path.split("/")
        or path.startswith("/")
        or PureWindowsPath(path).is_absolute()
        or (path[1:2] == ":" and (os.name == "nt" or path[2:3] in ("", "/")))
    ):
        raise InvalidPathError(_INVALID)
