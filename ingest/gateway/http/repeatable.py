"""Which requests may be sent to the MLflow server twice, and which answers tell that they may be.

MLflow's own client draws the same line since 3.18 (``mlflow.utils.rest_utils``, ``_RETRY_SAFE_POST_RESPONSES``).
"""

from __future__ import annotations

import re

import orjson

from runstream.schemas.mlflow.paths import ARTIFACTS_APIS

_READS = ("GET", "HEAD", "OPTIONS")
# POSTs below /mlflow/ that read, and writes that MLflow applies as often as they come with the same result.
_POSTS = frozenset(
    (
        *("runs/search", "experiments/search", "logged-models/search", "datasets/search", "traces/search"),
        *(
            "traces/batchGetInfos",
            "traces/batchGet",
            "traces/metrics",
            "registered-models/get-latest-versions",
        ),
        *("runs/log-batch", "runs/log-metric", "runs/log-parameter", "runs/set-tag"),
        *("runs/update", "runs/delete", "runs/restore"),
        *("experiments/set-experiment-tag", "registered-models/set-tag", "registered-models/alias"),
        "model-versions/set-tag",
    )
)
# What is stored at a path is the same after a second time.
_ARTIFACTS = tuple(f"{api}/artifacts/" for api in ARTIFACTS_APIS)
_BELOW_MLFLOW = re.compile(r".*?/(?:ajax-)?api/\d\.\d/mlflow/(.+)")
# What psycopg 3 and 2 say when there was no connection to begin with: MLflow takes one at the beginning of each of its
# transactions, and its creating calls write in one.
_NEVER_CONNECTED = re.compile(
    rb"connection failed: |could not connect to server|connection to server at .{1,300} failed"
)
_AWAY = "TEMPORARILY_UNAVAILABLE"


def is_repeatable(method: str, path: str) -> bool:
    """Whether doing this twice is the same as once. ``path`` is the request's, without its query."""
    if method in _READS:
        return True
    if method in ("PUT", "DELETE"):
        return any(artifacts in path for artifacts in _ARTIFACTS)
    if method != "POST":
        return False
    if path.endswith("/graphql"):
        return True  # MLflow's schema has queries only
    found = _BELOW_MLFLOW.fullmatch(path)
    return found is not None and found[1] in _POSTS


def is_away(status: int, body: bytes) -> bool:
    """Whether this answer says that what the server needs, its database, is away."""
    if status != 503:
        return False
    try:
        return bool(orjson.loads(body)["error_code"] == _AWAY)
    except (ValueError, TypeError, KeyError):
        return False


def was_nothing_done(body: bytes) -> bool:
    """Whether an answer that ``is_away`` says that the database was not even reached."""
    return _NEVER_CONNECTED.search(body) is not None
