"""MLflow's ``runs/log-batch`` as any MLflow server speaks it: cut to its limits, and not stopped by one bad entry."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from runstream.ingest.client.link import MLFLOW, Link, RefusedError

# MLflow's server takes 1 MB; the keys of the body itself need a little.
_MOST_BYTES = 1_000_000 - 1_000
# Answers that are about the run, not about an entry.
_OF_THE_RUN = (
    "RESOURCE_DOES_NOT_EXIST",
    "PERMISSION_DENIED",
    "INVALID_STATE",
    "ENDPOINT_NOT_FOUND",
)

Entries = dict[str, list[dict[str, Any]]]


def log_batch(link: Link, run_id: str, entries: Entries, refused: Callable[[str, str], None]) -> int:
    """Log metrics, params or tags (``{"metrics": […]}``) of a run; how many metrics the server took.

    What the server refuses is halved until the entry to blame stands alone; ``refused`` gets its name and the
    reason, and the same name is not offered again. Raises ``AwayError``, ``DeniedError``, and ``RefusedError`` where
    there is no such run.
    """
    kind, items = next((kind, items) for kind, items in entries.items() if items)
    waiting, stored, bad = [items], 0, set()
    while waiting:
        part = [item for item in waiting.pop() if item["key"] not in bad]
        if not part:
            continue
        data = json.dumps({"run_id": run_id, kind: part}, separators=(",", ":"), ensure_ascii=False).encode(
            "utf-8", "replace"
        )
        try:
            if len(data) > _MOST_BYTES and len(part) > 1:
                raise RefusedError(413, "", "too large")
            link.request("POST", f"{MLFLOW}/runs/log-batch", data)
        except RefusedError as error:
            if error.no_such_run:
                raise
            if error.code in _OF_THE_RUN or _of_the_run(str(error)):
                refused("everything", str(error))
                return stored
            if len(part) == 1:
                bad.add(part[0]["key"])
                refused(f"{kind[:-1]} {part[0]['key']!r}", str(error))
                continue
            half = len(part) // 2
            waiting += [part[half:], part[:half]]
        else:
            stored += len(part) if kind == "metrics" else 0
    return stored


def _of_the_run(message: str) -> bool:
    """MLflow says INVALID_PARAMETER_VALUE of a deleted run as well (SqlAlchemyStore._check_run_is_active)."""
    return "must be in the 'active' state" in message or "must be in 'active' state" in message
