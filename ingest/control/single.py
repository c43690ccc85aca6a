"""The rarer changes of experiments and runs: each decided and written by itself, inside the shared transaction.

Decisions are MLflow's (``SqlAlchemyStore``, the method that each docstring names).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from runstream.ingest.control import errors
from runstream.ingest.control.answers import Body
from runstream.ingest.control.database.reads import Row
from runstream.ingest.control.database.session import Session
from runstream.ingest.control.database.sql import packed, source
from runstream.ingest.control.entities import (
    ACTIVE,
    DELETED,
    EXPERIMENT_COLUMNS,
    RUN_COLUMNS,
    Experiment,
    Run,
)
from runstream.ingest.control.errors import PassOnError
from runstream.ingest.control.experiment_keys import find_key, remember_key
from runstream.ingest.control.naming import below
from runstream.ingest.control.requests import (
    Change,
    CreateExperiment,
    DeleteExperiment,
    DeleteExperimentTag,
    DeleteRun,
    DeleteTag,
    RestoreExperiment,
    RestoreRun,
    SetExperimentTag,
    UpdateExperiment,
)
from runstream.schemas.errors import MlflowError

# Where experiments without a location of their own have their artifacts (``runstream tracking``).
ARTIFACT_ROOT = "mlflow-artifacts:/"


def now_ms() -> int:
    """``get_current_time_millis``."""
    return int(time.time() * 1000)


def lock_experiment(session: Session, experiment_id: str) -> Experiment:
    """``_get_experiment`` of every stage; its row is kept from others until the end."""
    lock = " FOR NO KEY UPDATE" if session.dialect == "postgresql" else ""
    rows = session.rows(
        f"SELECT {EXPERIMENT_COLUMNS} FROM experiments WHERE experiment_id = ?{lock}", [int(experiment_id)]
    )
    if not rows:
        raise errors.no_experiment(int(experiment_id))
    return Experiment(*rows[0])


def lock_run(session: Session, run_id: str) -> Run:
    """``_get_run``; its row is kept from others until the end."""
    lock = " FOR NO KEY UPDATE" if session.dialect == "postgresql" else ""
    rows = session.rows(f"SELECT {RUN_COLUMNS} FROM runs WHERE run_uuid = ?{lock}", [run_id])
    if not rows:
        raise errors.no_run(run_id)
    return Run(*rows[0])


def lock_active_run(session: Session, run_id: str) -> Run:
    """``_get_run`` and ``_check_run_is_active``."""
    run = lock_run(session, run_id)
    if run.lifecycle_stage != ACTIVE:
        raise errors.run_not_active(run_id, run.lifecycle_stage)
    return run


def create_experiment(session: Session, change: CreateExperiment) -> Body:
    """``create_experiment``, without a location of its own."""
    known = find_key(session, change.key) if change.key else None
    if known is not None:
        return {"experiment_id": known}
    now = now_ms()
    if session.rows(
        "SELECT experiment_id FROM experiments WHERE workspace = 'default' AND name = ?", [change.name]
    ):
        raise _name_taken(session, change.name, now)
    [(experiment_id,)] = session.rows(
        "INSERT INTO experiments (name, workspace, artifact_location, lifecycle_stage, creation_time,"
        " last_update_time) VALUES (?, 'default', '', 'active', ?, ?) RETURNING experiment_id",
        [change.name, now, now],
    )
    session.execute(
        "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
        [below(ARTIFACT_ROOT, str(experiment_id)), experiment_id],
    )
    if change.tags:
        session.execute(
            "INSERT INTO experiment_tags (key, value, experiment_id)"
            f" SELECT c0, c1, c2 FROM {source(session.dialect, 'text', 'text', 'bigint')}",
            [packed([(tag.key, tag.value, experiment_id) for tag in change.tags])],
        )
    if change.key:
        remember_key(session, change.key, experiment_id, now)
    return {"experiment_id": str(experiment_id)}


def _name_taken(session: Session, name: str, now: int) -> MlflowError:
    """MLflow's words contain SQLAlchemy's, with the statement that failed."""
    if session.dialect == "sqlite":
        failed = (
            "(sqlite3.IntegrityError) UNIQUE constraint failed: experiments.workspace, experiments.name\n"
            "[SQL: INSERT INTO experiments (name, workspace, artifact_location, lifecycle_stage, creation_time, "
            f"last_update_time) VALUES (?, ?, ?, ?, ?, ?)]\n[parameters: ({name!r}, 'default', '', 'active', "
            f"{now}, {now})]"
        )
    else:
        failed = (
            '(psycopg.errors.UniqueViolation) duplicate key value violates unique constraint "uq_experiments_workspace_'
            f'name"\nDETAIL:  Key (workspace, name)=(default, {name}) already exists.\n'
            "[SQL: INSERT INTO experiments (name, workspace, artifact_location, lifecycle_stage, creation_time, "
            "last_update_time) VALUES (%(name)s::VARCHAR, %(workspace)s::VARCHAR, %(artifact_location)s::VARCHAR, "
            "%(lifecycle_stage)s::VARCHAR, %(creation_time)s::BIGINT, %(last_update_time)s::BIGINT) RETURNING "
            f"experiments.experiment_id]\n[parameters: {{'name': {name!r}, 'workspace': 'default', "
            f"'artifact_location': '', 'lifecycle_stage': 'active', 'creation_time': {now}, "
            f"'last_update_time': {now}}}]"
        )
    return MlflowError(
        f"Experiment(name={name}) already exists. Error: {failed}\n"
        "(Background on this error at: https://sqlalche.me/e/21/gkpj)",
        "RESOURCE_ALREADY_EXISTS",
    )


def update_experiment(session: Session, change: UpdateExperiment) -> Body:
    """``rename_experiment``."""
    found = lock_experiment(session, change.experiment_id)
    if found.lifecycle_stage != ACTIVE:
        raise MlflowError("Cannot rename a non-active experiment.", "INVALID_STATE")
    taken = session.rows(
        "SELECT experiment_id FROM experiments WHERE workspace = ? AND name = ?",
        [found.workspace, change.new_name],
    )
    if any(row[0] != found.experiment_id for row in taken):
        raise PassOnError
    session.execute(
        "UPDATE experiments SET name = ?, last_update_time = ? WHERE experiment_id = ?",
        [change.new_name, now_ms(), found.experiment_id],
    )
    return {}


def delete_experiment(session: Session, change: DeleteExperiment) -> Body:
    """``delete_experiment``: it and its runs."""
    return _move_experiment(session, change.experiment_id, ACTIVE, DELETED)


def restore_experiment(session: Session, change: RestoreExperiment) -> Body:
    """``restore_experiment``: it and its runs."""
    return _move_experiment(session, change.experiment_id, DELETED, ACTIVE)


def _move_experiment(session: Session, experiment_id: str, before: str, after: str) -> Body:
    found = lock_experiment(session, experiment_id)
    if found.lifecycle_stage != before:
        raise errors.no_experiment(found.experiment_id)
    if after == DELETED:
        _no_assessments(session)
    now = now_ms()
    session.execute(
        "UPDATE experiments SET lifecycle_stage = ?, last_update_time = ? WHERE experiment_id = ?",
        [after, now, found.experiment_id],
    )
    session.execute(
        "UPDATE runs SET lifecycle_stage = ?, deleted_time = ? WHERE experiment_id = ?",
        [after, now if after == DELETED else None, found.experiment_id],
    )
    return {}


def _no_assessments(session: Session) -> None:
    """What is said about traces goes with the run that said it (``_mark_run_deleted``): MLflow's server does that."""
    if session.rows("SELECT 1 FROM assessments LIMIT 1"):
        raise PassOnError


def set_experiment_tag(session: Session, change: SetExperimentTag) -> Body:
    """``set_experiment_tag``."""
    found = _active_experiment(session, change.experiment_id)
    session.execute(
        "INSERT INTO experiment_tags (key, value, experiment_id) VALUES (?, ?, ?)"
        " ON CONFLICT (key, experiment_id) DO UPDATE SET value = excluded.value",
        [change.key, change.value, found.experiment_id],
    )
    return {}


def delete_experiment_tag(session: Session, change: DeleteExperimentTag) -> Body:
    """``delete_experiment_tag``."""
    found = _active_experiment(session, change.experiment_id)
    where = "FROM experiment_tags WHERE experiment_id = ? AND key = ?"
    if not session.rows(f"SELECT 1 {where}", [found.experiment_id, change.key]):
        raise errors.missing(f"No tag with name: {change.key} in experiment with id {change.experiment_id}")
    session.execute(f"DELETE {where}", [found.experiment_id, change.key])
    return {}


def _active_experiment(session: Session, experiment_id: str) -> Experiment:
    found = lock_experiment(session, experiment_id)
    if found.lifecycle_stage != ACTIVE:
        raise errors.experiment_not_active(found.experiment_id, found.lifecycle_stage)
    return found


def delete_run(session: Session, change: DeleteRun) -> Body:
    """``delete_run``."""
    run = lock_run(session, change.run_id)
    _no_assessments(session)
    _mark_run(session, run, DELETED, now_ms())
    return {}


def restore_run(session: Session, change: RestoreRun) -> Body:
    """``restore_run``."""
    _mark_run(session, lock_run(session, change.run_id), ACTIVE, None)
    return {}


def _mark_run(session: Session, run: Run, stage: str, deleted_time: int | None) -> None:
    session.execute(
        "UPDATE runs SET lifecycle_stage = ?, deleted_time = ? WHERE run_uuid = ?",
        [stage, deleted_time, run.run_id],
    )


def delete_tag(session: Session, change: DeleteTag) -> Body:
    """``delete_tag``."""
    run = lock_active_run(session, change.run_id)
    where = "FROM tags WHERE run_uuid = ? AND key = ?"
    found: list[Row] = session.rows(f"SELECT 1 {where}", [run.run_id, change.key])
    if not found:
        raise errors.missing(f"No tag with name: {change.key} in run with id {run.run_id}")
    session.execute(f"DELETE {where}", [run.run_id, change.key])
    return {}


SINGLE: Mapping[type[Change], Callable[[Session, Any], Body]] = {
    CreateExperiment: create_experiment,
    UpdateExperiment: update_experiment,
    DeleteExperiment: delete_experiment,
    RestoreExperiment: restore_experiment,
    SetExperimentTag: set_experiment_tag,
    DeleteExperimentTag: delete_experiment_tag,
    DeleteRun: delete_run,
    RestoreRun: restore_run,
    DeleteTag: delete_tag,
}
