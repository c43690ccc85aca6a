"""Changes of logged models, and of what went into runs and came out of them; decided as in ``single``."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from runstream.ingest.control import answers, errors
from runstream.ingest.control.answers import Body
from runstream.ingest.control.database.session import Session
from runstream.ingest.control.database.sql import packed, source
from runstream.ingest.control.entities import ACTIVE, MODEL_COLUMNS, MODEL_STATUSES, LoggedModel
from runstream.ingest.control.errors import PassOnError
from runstream.ingest.control.naming import below
from runstream.ingest.control.requests import (
    Change,
    CreateLoggedModel,
    DatasetInput,
    DeleteLoggedModelTag,
    FinalizeLoggedModel,
    LogInputs,
    LogLoggedModelParams,
    LogOutputs,
    Pair,
    SetLoggedModelTags,
)
from runstream.ingest.control.single import lock_active_run, lock_experiment, now_ms

_MAX_LOCATION = 1000


def log_inputs(session: Session, change: LogInputs) -> Body:
    """``log_inputs``: datasets, known by name and digest in the run's experiment, and models."""
    run = lock_active_run(session, change.run_id)
    # The first of each name and digest.
    wanted: dict[tuple[str, str], DatasetInput] = {}
    for item in change.datasets:
        wanted.setdefault((item.dataset.name, item.dataset.digest), item)
    for (name, digest), item in wanted.items():
        rows = session.rows(
            "SELECT dataset_uuid FROM datasets WHERE experiment_id = ? AND name = ? AND digest = ?",
            [run.experiment_id, name, digest],
        )
        dataset_id = rows[0][0] if rows else _add_dataset(session, run.experiment_id, item)
        _add_input(session, dataset_id, run.run_id, item)
    for model in change.models:
        session.execute(
            "INSERT INTO inputs (input_uuid, source_type, source_id, destination_type, destination_id, step)"
            " VALUES (?, 'RUN_INPUT', ?, 'MODEL_INPUT', ?, 0)"
            " ON CONFLICT (source_type, source_id, destination_type, destination_id)"
            " DO UPDATE SET input_uuid = excluded.input_uuid",
            [uuid.uuid4().hex, run.run_id, model.model_id],
        )
    return {}


def _add_dataset(session: Session, experiment_id: int, item: DatasetInput) -> str:
    dataset = item.dataset
    dataset_id = uuid.uuid4().hex
    session.execute(
        "INSERT INTO datasets (dataset_uuid, experiment_id, name, digest, dataset_source_type, dataset_source,"
        " dataset_schema, dataset_profile) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            dataset_id,
            experiment_id,
            dataset.name,
            dataset.digest,
            dataset.source_type,
            dataset.source,
            dataset.schema,
            dataset.profile,
        ],
    )
    return dataset_id


def _add_input(session: Session, dataset_id: str, run_id: str, item: DatasetInput) -> None:
    if session.rows(
        "SELECT 1 FROM inputs WHERE source_type = 'DATASET' AND source_id = ? AND destination_type = 'RUN'"
        " AND destination_id = ?",
        [dataset_id, run_id],
    ):
        return
    input_id = uuid.uuid4().hex
    session.execute(
        "INSERT INTO inputs (input_uuid, source_type, source_id, destination_type, destination_id, step)"
        " VALUES (?, 'DATASET', ?, 'RUN', ?, 0)",
        [input_id, dataset_id, run_id],
    )
    for tag in item.tags:
        session.execute(
            "INSERT INTO input_tags (input_uuid, name, value) VALUES (?, ?, ?)",
            [input_id, tag.key, tag.value],
        )


def log_outputs(session: Session, change: LogOutputs) -> Body:
    """``log_outputs``."""
    run = lock_active_run(session, change.run_id)
    for model in change.models:
        if session.rows(
            "SELECT 1 FROM inputs WHERE source_type = 'RUN_OUTPUT' AND source_id = ?"
            " AND destination_type = 'MODEL_OUTPUT' AND destination_id = ?",
            [run.run_id, model.model_id],
        ):
            raise PassOnError
        session.execute(
            "INSERT INTO inputs (input_uuid, source_type, source_id, destination_type, destination_id, step)"
            " VALUES (?, 'RUN_OUTPUT', ?, 'MODEL_OUTPUT', ?, ?)",
            [uuid.uuid4().hex, run.run_id, model.model_id, model.step],
        )
    return {}


def create_logged_model(session: Session, change: CreateLoggedModel) -> Body:
    """``create_logged_model``."""
    experiment = lock_experiment(session, change.experiment_id)
    if experiment.lifecycle_stage != ACTIVE:
        raise errors.experiment_not_active(experiment.experiment_id, experiment.lifecycle_stage)
    model_id = f"m-{change.model_id}"
    if session.rows("SELECT 1 FROM logged_models WHERE model_id = ?", [model_id]):
        return _answer(session, _model(session, model_id))
    location = below(experiment.artifact_location, "models", model_id, "artifacts")
    if location is None or len(location) > _MAX_LOCATION:
        raise PassOnError
    now = now_ms()
    session.execute(
        f"INSERT INTO logged_models ({MODEL_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            model_id,
            experiment.experiment_id,
            change.name,
            location,
            now,
            now,
            MODEL_STATUSES.index("LOGGED_MODEL_PENDING"),
            ACTIVE,
            change.model_type,
            change.source_run_id,
            None,
        ],
    )
    _add_pairs(session, "params", model_id, experiment.experiment_id, change.params)
    _add_pairs(session, "tags", model_id, experiment.experiment_id, change.tags)
    return _answer(session, _model(session, model_id))


def log_logged_model_params(session: Session, change: LogLoggedModelParams) -> Body:
    """``log_logged_model_params``."""
    model = _model(session, change.model_id)
    known = {
        row[0]
        for row in session.rows(
            "SELECT param_key FROM logged_model_params WHERE model_id = ?", [model.model_id]
        )
    }
    if any(param.key in known for param in change.params):
        raise PassOnError
    _add_pairs(session, "params", model.model_id, model.experiment_id, change.params)
    return {}


def finalize_logged_model(session: Session, change: FinalizeLoggedModel) -> Body:
    """``finalize_logged_model``."""
    model = _model(session, change.model_id)
    model.status = MODEL_STATUSES.index(change.status)
    model.last_updated_timestamp_ms = now_ms()
    session.execute(
        "UPDATE logged_models SET status = ?, last_updated_timestamp_ms = ? WHERE model_id = ?",
        [model.status, model.last_updated_timestamp_ms, model.model_id],
    )
    return _answer(session, model)


def set_logged_model_tags(session: Session, change: SetLoggedModelTags) -> Body:
    """``set_logged_model_tags``."""
    model = _model(session, change.model_id)
    last = [Pair(key, value) for key, value in {tag.key: tag.value for tag in change.tags}.items()]
    _add_pairs(session, "tags", model.model_id, model.experiment_id, last)
    return {}


def delete_logged_model_tag(session: Session, change: DeleteLoggedModelTag) -> Body:
    """``delete_logged_model_tag``."""
    _model(session, change.model_id)
    where = "FROM logged_model_tags WHERE model_id = ? AND tag_key = ?"
    if not session.rows(f"SELECT 1 {where}", [change.model_id, change.tag_key]):
        raise errors.missing(
            f"No tag with key {change.tag_key!r} found for model with ID {change.model_id!r}."
        )
    session.execute(f"DELETE {where}", [change.model_id, change.tag_key])
    return {}


def _model(session: Session, model_id: str) -> LoggedModel:
    rows = session.rows(f"SELECT {MODEL_COLUMNS} FROM logged_models WHERE model_id = ?", [model_id])
    if not rows:
        raise errors.no_model(model_id)
    return LoggedModel(*rows[0])


def _add_pairs(session: Session, what: str, model_id: str, experiment_id: int, pairs: list[Pair]) -> None:
    if not pairs:
        return
    one = what.removesuffix("s")
    kinds = source(session.dialect, "text", "text")
    session.execute(
        f"INSERT INTO logged_model_{what} (model_id, experiment_id, {one}_key, {one}_value)"
        f" SELECT ?, ?, c0, c1 FROM {kinds} WHERE true"
        f" ON CONFLICT (model_id, {one}_key) DO UPDATE SET {one}_value = excluded.{one}_value",
        [model_id, experiment_id, packed([(pair.key, pair.value) for pair in pairs])],
    )


def _answer(session: Session, model: LoggedModel) -> Body:
    tags, params = (_pairs(session, what, model.model_id) for what in ("tag", "param"))
    metrics = session.rows(METRICS, [model.model_id])
    return {
        "model": answers.logged_model(
            model, tags, params, [model_metric(model.model_id, *row) for row in metrics]
        )
    }


def _pairs(session: Session, what: str, model_id: str) -> dict[str, str]:
    sql = f"SELECT {what}_key, {what}_value FROM logged_model_{what}s WHERE model_id = ?"
    return {row[0]: row[1] for row in session.rows(sql, [model_id])}


METRICS = (
    "SELECT metric_name, metric_value, metric_timestamp_ms, metric_step, dataset_name, dataset_digest, run_id"
    " FROM logged_model_metrics WHERE model_id = ?"
)


def model_metric(
    model_id: str,
    key: str,
    value: float,
    timestamp: int,
    step: int,
    dataset_name: str | None,
    dataset_digest: str | None,
    run_id: str | None,
) -> Body:
    """A metric of a logged model."""
    body: Body = {"key": key, "value": answers.number(value), "timestamp": timestamp, "step": step}
    if dataset_name:
        body["dataset_name"] = dataset_name
    if dataset_digest:
        body["dataset_digest"] = dataset_digest
    body["model_id"] = model_id
    if run_id:
        body["run_id"] = run_id
    return body


MODELS: Mapping[type[Change], Callable[[Session, Any], Body]] = {
    LogInputs: log_inputs,
    LogOutputs: log_outputs,
    CreateLoggedModel: create_logged_model,
    LogLoggedModelParams: log_logged_model_params,
    FinalizeLoggedModel: finalize_logged_model,
    SetLoggedModelTags: set_logged_model_tags,
    DeleteLoggedModelTag: delete_logged_model_tag,
}
