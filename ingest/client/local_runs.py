"""Runs as MLflow's JSON shows them, made from what this machine's spool holds of them."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from runstream.ingest.client.artifacts import FOLDER
from runstream.ingest.client.reader import SpoolFile, spool_files
from runstream.ingest.client.spool import run_folder
from runstream.schemas import frame
from runstream.schemas.errors import BadRecordError

NAME_TAG = "mlflow.runName"
_STATUS_FIELDS = ("status", "end_time", "run_name")


def new_run(spool: Path, body: dict[str, Any]) -> dict[str, Any]:
    """A run that is created here, as the server would answer. ``body`` is that of ``runs/create`` with a ``run_id``."""
    run_id = str(body["run_id"])
    info = {
        "run_id": run_id,
        "run_uuid": run_id,
        "experiment_id": str(body.get("experiment_id", "0")),
        "run_name": body.get("run_name") or "",
        "user_id": body.get("user_id") or "unknown",
        "status": "RUNNING",
        "start_time": int(body.get("start_time") or 0),
        "artifact_uri": (run_folder(spool, run_id) / FOLDER).as_uri(),
        "lifecycle_stage": "active",
    }
    return {"info": info, "data": {"metrics": [], "params": [], "tags": list(body.get("tags", []))}}


def spooled_run(spool: Path, run_id: str, known: dict[str, Any] | None = None) -> dict[str, Any]:
    """A run with everything that the spool holds of it, on top of what is ``known`` of it."""
    folder = run_folder(spool, run_id)
    run = known or new_run(spool, {"run_id": run_id})
    info = dict(run["info"])
    params = {one["key"]: one["value"] for one in run["data"].get("params", [])}
    tags = {one["key"]: one["value"] for one in run["data"].get("tags", [])}
    newest: dict[str, tuple[int, int, float]] = {}
    for path in spool_files(spool, folder):
        try:
            file = SpoolFile(path)
            at = 0
            while (piece := file.read(at)) is not None:
                for one in piece.frames:
                    if one.kind == frame.POINTS:
                        _newest(file, frame.decode_points(piece.buffer, one), newest)
                        continue
                    if one.kind not in (frame.CREATE, frame.PARAMS, frame.TAGS, frame.STATUS):
                        continue
                    value = frame.decode_json(piece.buffer, one)
                    if one.kind == frame.CREATE and value.get("what") == "run":
                        made = new_run(spool, value["body"])
                        info = {**made["info"], **{key: info[key] for key in ("artifact_uri",) if known}}
                        tags.update({tag["key"]: tag["value"] for tag in made["data"]["tags"]})
                    elif one.kind == frame.PARAMS:
                        params.update(value)
                    elif one.kind == frame.TAGS:
                        tags.update(value)
                    elif one.kind == frame.STATUS:
                        info.update({key: value[key] for key in _STATUS_FIELDS if value.get(key) is not None})
                at = piece.end
        except (OSError, BadRecordError):
            continue
    data = {
        "metrics": [
            {"key": key, "value": _shown(value), "timestamp": timestamp, "step": step}
            for key, (step, timestamp, value) in newest.items()
        ],
        "params": [{"key": key, "value": value} for key, value in params.items()],
        "tags": [{"key": key, "value": value} for key, value in tags.items()],
    }
    return {"info": info, "data": data}


def _newest(file: SpoolFile, points: frame.Columns, newest: dict[str, tuple[int, int, float]]) -> None:
    """MLflow's newest point: the greatest step, then timestamp, then value."""
    count = len(points)
    columns = [struct.unpack(f"<{count}{kind}", raw) for kind, raw in zip("qqdI", points, strict=True)]
    for step, timestamp, value, code in zip(*columns, strict=True):
        name = file.names.get(code)
        if name is None:
            continue
        old = newest.get(name)
        # A NaN is less than nothing, as in MLflow's order by is_nan.
        if (
            old is None
            or (step, timestamp, value) > old
            or (old[2] != old[2] and (step, timestamp) >= old[:2])
        ):
            newest[name] = (step, timestamp, value)


def _shown(value: float) -> float | str:
    if value - value == 0.0:
        return value
    return "NaN" if value != value else 1.7976931348623157e308 if value > 0 else -1.7976931348623157e308


# --- experiments that are known by name only -------------------------------------------------------------------


def made_up_experiment(spool: Path, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """An experiment that cannot be asked for: the same id for the same name in every process, remembered here."""
    number = "0"
    if name != "Default":
        number = str(10**17 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little"))
        path = spool / "experiments" / f"{number}.json"
        if body is not None or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({**(body or {}), "name": name}))
    return {
        "experiment_id": number,
        "name": name,
        "artifact_location": (spool / "experiments" / number).as_uri(),
        "lifecycle_stage": "active",
        "tags": [],
    }


def made_up_name(spool: Path, experiment_id: str) -> dict[str, Any] | None:
    """What ``made_up_experiment`` was given for this id; ``None`` for an id of the server's."""
    if not experiment_id.isdigit():
        return None
    try:
        value: dict[str, Any] = json.loads((spool / "experiments" / f"{experiment_id}.json").read_text())
        return value
    except (OSError, ValueError):
        return None
