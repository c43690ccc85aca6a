"""Turns what object stores raise into artifact errors, and their words into something that may be logged."""

from __future__ import annotations

import logging
import os
import re

from obstore import exceptions

from runstream.ingest.artifacts.errors import (
    ArtifactError,
    InvalidPathError,
    NoSuchArtifactError,
    NotAFileError,
    StoreRefusedError,
    StoreUnavailableError,
)

_log = logging.getLogger(__name__)

_MAX_WORDS = 400
_QUERY = re.compile(r"\?[^\s)\"'<>]*")
_USERINFO = re.compile(r"//[^/\s@]*@")
# Signatures, tokens and key ids that stores quote back in the bodies of their errors.
_QUOTED = re.compile(
    r"<(AWSAccessKeyId|SignatureProvided|StringToSign\w*|CanonicalRequest\w*|AuthenticationErrorDetail)>"
    r".*?</\1>",
    re.DOTALL,
)
_SECRET_NAME = re.compile(
    r"^(AWS|AZURE|GOOGLE|MLFLOW_S3|RUNSTREAM).*(KEY|TOKEN|SECRET|PASSWORD|CONNECTION_STRING)"
)

NAME_TOO_LONG = "Invalid path: a name in it is too long"
NOT_A_FILE = "Artifact path refers to a directory, not a file"
BELOW_A_FILE = "Invalid path: a file is in the way of a directory of the same name"


def translate(error: BaseException, doing: str) -> ArtifactError:
    """The artifact error for what obstore raised; also writes one scrubbed line to the log unless the fault is the
    client's. ``doing`` names the operation."""
    text = str(error)
    match error:
        case ArtifactError():
            return error
        case FileNotFoundError():
            return NoSuchArtifactError("No such artifact")
        case exceptions.PermissionDeniedError() | exceptions.UnauthenticatedError():
            _log.error("the artifact store refused to %s: %s", doing, scrub(text))
            return StoreRefusedError(
                "the artifact store does not accept the server's credentials or rights; "
                "`runstream doctor` on the server says more"
            )
        case ValueError():
            return InvalidPathError("Invalid path")
    for sign, meant in (
        ("(os error 36)", InvalidPathError(NAME_TOO_LONG)),
        ("KeyTooLong", InvalidPathError(NAME_TOO_LONG)),
        ("(os error 20)", NotAFileError(BELOW_A_FILE)),
        ("(os error 21)", NotAFileError(NOT_A_FILE)),
        ("(os error 28)", StoreUnavailableError("the artifact store is full")),
    ):
        if sign in text:
            return meant
    _log.warning("the artifact store failed to %s: %s", doing, scrub(text))
    return StoreUnavailableError(f"the artifact store failed to {doing}")


def scrub(text: str) -> str:
    """One line without query strings (signatures), user names and any secret of this process's environment."""
    line = _QUOTED.sub(r"<\1>…</\1>", text.partition("\n\nDebug source")[0])
    line = _USERINFO.sub("//", _QUERY.sub("?…", " ".join(line.split())))
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET_NAME.match(name):
            line = line.replace(value, "***")
    return line[:_MAX_WORDS]
