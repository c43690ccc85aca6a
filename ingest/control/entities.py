"""Rows of MLflow's tables (``mlflow.store.tracking.dbmodels.models``), as the control plane holds them."""

from __future__ import annotations

from dataclasses import dataclass

ACTIVE = "active"
DELETED = "deleted"
RUN_NAME_TAG = "mlflow.runName"
RUN_STATUSES = ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")
# mlflow.entities.LoggedModelStatus: the number in the table is the index here.
MODEL_STATUSES = (
    "LOGGED_MODEL_STATUS_UNSPECIFIED",
    "LOGGED_MODEL_PENDING",
    "LOGGED_MODEL_READY",
    "LOGGED_MODEL_UPLOAD_FAILED",
)


@dataclass(slots=True)
class Run:
    """A row of ``runs``; times are Unix milliseconds."""

    run_id: str
    name: str | None
    user_id: str
    status: str
    start_time: int
    end_time: int | None
    lifecycle_stage: str
    artifact_uri: str | None
    experiment_id: int

    def row(self) -> tuple[str | int | None, ...]:
        """In the order of ``RUN_COLUMNS``."""
        return (
            self.run_id,
            self.name,
            self.user_id,
            self.status,
            self.start_time,
            self.end_time,
            self.lifecycle_stage,
            self.artifact_uri,
            self.experiment_id,
        )


RUN_COLUMNS = (
    "run_uuid, name, user_id, status, start_time, end_time, lifecycle_stage, artifact_uri, experiment_id"
)


@dataclass(slots=True)
class Experiment:
    """A row of ``experiments``."""

    experiment_id: int
    name: str
    artifact_location: str
    lifecycle_stage: str
    creation_time: int | None
    last_update_time: int | None
    workspace: str


EXPERIMENT_COLUMNS = (
    "experiment_id, name, artifact_location, lifecycle_stage, creation_time, last_update_time, workspace"
)


@dataclass(slots=True)
class LoggedModel:
    """A row of ``logged_models``."""

    model_id: str
    experiment_id: int
    name: str
    artifact_location: str
    creation_timestamp_ms: int
    last_updated_timestamp_ms: int
    status: int
    lifecycle_stage: str
    model_type: str | None
    source_run_id: str | None
    status_message: str | None


MODEL_COLUMNS = (
    "model_id, experiment_id, name, artifact_location, creation_timestamp_ms, last_updated_timestamp_ms, status, "
    "lifecycle_stage, model_type, source_run_id, status_message"
)
