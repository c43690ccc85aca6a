"""Logged models while there is no server: made here, under ids of their own, and created when the spool is sent."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runstream.ingest.client.spool import now_ms, run_folder

FOLDER = "models"
_ABOUT = "model.json"


def create(spool: Path, body: Mapping[str, Any]) -> dict[str, Any]:
    """A model as the server would answer to ``body``, kept in the folder of the run that it comes from."""
    model_id = f"m-{uuid.uuid4().hex}"
    folder = run_folder(spool, str(body["source_run_id"])) / FOLDER / model_id
    model = {
        "info": {
            "model_id": model_id,
            "experiment_id": str(body.get("experiment_id", "0")),
            "name": body.get("name") or model_id,
            "creation_timestamp_ms": now_ms(),
            "last_updated_timestamp_ms": now_ms(),
            "artifact_uri": (folder / "files").as_uri(),
            "status": "LOGGED_MODEL_PENDING",
            "model_type": body.get("model_type") or "",
            "source_run_id": body["source_run_id"],
            "tags": list(body.get("tags", [])),
        },
        "data": {"params": list(body.get("params", []))},
    }
    (folder / "files").mkdir(parents=True, exist_ok=True)
    (folder / _ABOUT).write_text(json.dumps(model))
    return model


def find(spool: Path, model_id: str) -> dict[str, Any] | None:
    """A model that ``create`` has made in this spool."""
    for about in spool.glob(f"runs/*/{FOLDER}/{model_id}/{_ABOUT}"):
        model: dict[str, Any] = json.loads(about.read_text())
        return model
    return None


def change(spool: Path, model: dict[str, Any], body: Mapping[str, Any]) -> None:
    """Note a status, tags or params of a model made here."""
    if "status" in body:
        model["info"]["status"] = body["status"]
    model["info"]["tags"] += list(body.get("tags", []))
    model["data"]["params"] += list(body.get("params", []))
    folder = run_folder(spool, str(model["info"]["source_run_id"])) / FOLDER / model["info"]["model_id"]
    (folder / _ABOUT).write_text(json.dumps(model))
