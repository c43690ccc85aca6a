"""MLflow's answers: its entities as protobuf JSON, byte for byte as ``mlflow.utils.proto_json_utils`` prints them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from runstream.ingest.control.entities import MODEL_STATUSES, Experiment, LoggedModel, Run

Body = dict[str, Any]
_NOT_ASCII = re.compile(r"[^\x00-\x7e]")


def render(body: Body) -> bytes:
    """The body's JSON: indented by two, ASCII."""
    text = orjson.dumps(body, option=orjson.OPT_INDENT_2)
    if text.isascii() and b"\x7f" not in text:
        return text
    # Outside of strings JSON is ASCII, so that every other character may be escaped where it stands.
    return _NOT_ASCII.sub(_escaped, text.decode()).encode()


def _escaped(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def number(value: float, is_nan: bool = False) -> float | str | orjson.Fragment:
    """A double as Python prints it; orjson spells exponents otherwise."""
    if is_nan or value != value:
        return "NaN"
    size = abs(value)
    if 1e-4 <= size < 1e15 or value == 0:
        return value
    if size == float("inf"):
        return "Infinity" if value > 0 else "-Infinity"
    return orjson.Fragment(repr(value))


def pairs(found: Iterable[tuple[str, str | None]]) -> list[Body]:
    """Params or tags. As in MLflow's entities, a key stands where it stood first, with its last value."""
    return [
        {"key": key, "value": value} if value is not None else {"key": key}
        for key, value in dict(found).items()
    ]


def run_info(run: Run) -> Body:
    """``RunInfo``, in the order of protobuf's field numbers."""
    body: Body = {"run_uuid": run.run_id, "experiment_id": str(run.experiment_id)}
    if run.name is not None:
        body["run_name"] = run.name
    body |= {"user_id": run.user_id, "status": run.status, "start_time": run.start_time}
    if run.end_time:
        body["end_time"] = run.end_time
    if run.artifact_uri:
        body["artifact_uri"] = run.artifact_uri
    body["lifecycle_stage"] = run.lifecycle_stage
    body["run_id"] = run.run_id
    return body


def with_lists(**lists: list[Body]) -> Body:
    """A message of repeated fields; those that are empty are left out."""
    return {name: items for name, items in lists.items() if items}


def experiment(found: Experiment, tags: Iterable[tuple[str, str | None]]) -> Body:
    """``Experiment``."""
    body: Body = {
        "experiment_id": str(found.experiment_id),
        "name": found.name,
        "artifact_location": found.artifact_location,
        "lifecycle_stage": found.lifecycle_stage,
    }
    if found.last_update_time:
        body["last_update_time"] = found.last_update_time
    if found.creation_time:
        body["creation_time"] = found.creation_time
    return body | with_lists(tags=pairs(tags)) | {"workspace": found.workspace}


def logged_model(
    model: LoggedModel,
    tags: Mapping[str, str],
    params: Mapping[str, str],
    metrics: list[Body],
) -> Body:
    """``LoggedModel``."""
    info: Body = {
        "model_id": model.model_id,
        "experiment_id": str(model.experiment_id),
        "name": model.name,
        "creation_timestamp_ms": model.creation_timestamp_ms,
        "last_updated_timestamp_ms": model.last_updated_timestamp_ms,
        "artifact_uri": model.artifact_location,
        "status": MODEL_STATUSES[model.status],
    }
    for name in ("model_type", "source_run_id", "status_message"):
        if (value := getattr(model, name)) is not None:
            info[name] = value
    info |= with_lists(tags=pairs(tags.items()))
    return {"info": info, "data": with_lists(params=pairs(params.items()), metrics=metrics)}
