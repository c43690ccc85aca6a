"""Page tokens of metric histories, equal to MLflow's (``mlflow.utils.search_utils.SearchUtils``)."""

from __future__ import annotations

import base64
import binascii
import json

from runstream.schemas.errors import MlflowError
from runstream.schemas.mlflow.limits import INT64_MAX, INT64_MIN


def create_page_token(offset: int) -> str:
    """The token of the page that begins at ``offset``."""
    return base64.b64encode(json.dumps({"offset": offset}).encode()).decode()


def parse_page_token(token: str | None) -> int:
    """The offset that a token names, 0 for none. Raises ``MlflowError`` with MLflow's messages.

    A negative offset counts from before the beginning, as on SQLite. Where stock MLflow answers 500 (a
    token that is JSON but not an object, or an offset beyond int64), this is an invalid token too.
    """
    if not token:
        return 0
    try:
        decoded = base64.b64decode(token)
    except (binascii.Error, ValueError) as error:
        raise MlflowError("Invalid page token, could not base64-decode") from error
    try:
        parsed = json.loads(decoded)
    except ValueError as error:
        raise MlflowError(f"Invalid page token, decoded value={decoded!r}") from error
    offset_text = parsed.get("offset") if isinstance(parsed, dict) else None
    if not offset_text:
        raise MlflowError(f"Invalid page token, parsed value={parsed}")
    try:
        offset = int(offset_text)
    except (ValueError, TypeError, OverflowError) as error:
        raise MlflowError(f"Invalid page token, not stringable {offset_text}") from error
    if offset > INT64_MAX:
        raise MlflowError(f"Invalid page token, parsed value={parsed}")
    return max(offset, INT64_MIN)
