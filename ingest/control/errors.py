"""MLflow's refusals, in its own words (``SqlAlchemyStore``)."""

from __future__ import annotations

from runstream.schemas.errors import MlflowError


class PassOnError(Exception):
    """This request is for MLflow's server: something about it is unusual, and nothing has been done for it."""


def missing(message: str) -> MlflowError:
    """``RESOURCE_DOES_NOT_EXIST``."""
    return MlflowError(message, "RESOURCE_DOES_NOT_EXIST")


def no_run(run_id: str) -> MlflowError:
    """``_get_run``."""
    return missing(f"Run with id={run_id} not found")


def no_experiment(experiment_id: int) -> MlflowError:
    """``_get_experiment``."""
    return missing(f"No Experiment with id={experiment_id} exists")


def no_model(model_id: str) -> MlflowError:
    """``_raise_model_not_found``."""
    return missing(f"Logged model with ID '{model_id}' not found.")


def run_not_active(run_id: str, stage: str) -> MlflowError:
    """``_check_run_is_active``."""
    return MlflowError(f"The run {run_id} must be in the 'active' state. Current state is {stage}.")


def experiment_not_active(experiment_id: int, stage: str) -> MlflowError:
    """``_check_experiment_is_active``."""
    return MlflowError(
        f"The experiment {experiment_id} must be in the 'active' state. Current state is {stage}."
    )


def param_changed(run_id: str, key: str, old: str, new: str) -> MlflowError:
    """``log_param``."""
    return MlflowError(
        f"Changing param values is not allowed. Param with key='{key}' was already logged with value='{old}' for run"
        f" ID='{run_id}'. Attempted logging new value '{new}'."
    )


def params_changed(run_id: str, changes: list[dict[str, str]]) -> MlflowError:
    """``_log_params``."""
    return MlflowError(
        f"Changing param values is not allowed. Params were already logged='{changes}' for run ID='{run_id}'."
    )
