"""What a change must be like to be decided here; see ``checks``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runstream.ingest.control import checks
from runstream.ingest.control.checks import Checks
from runstream.ingest.control.entities import MODEL_STATUSES, RUN_NAME_TAG, RUN_STATUSES
from runstream.ingest.control.errors import PassOnError
from runstream.ingest.control.requests import (
    Change,
    CreateExperiment,
    CreateLoggedModel,
    CreateRun,
    DeleteExperiment,
    DeleteExperimentTag,
    DeleteLoggedModelTag,
    DeleteRun,
    DeleteTag,
    FinalizeLoggedModel,
    LogBatch,
    LogInputs,
    LogLoggedModelParams,
    LogOutputs,
    LogParam,
    Pair,
    RestoreExperiment,
    RestoreRun,
    SetExperimentTag,
    SetLoggedModelTags,
    SetTag,
    UpdateExperiment,
    UpdateRun,
)
from runstream.schemas.mlflow.limits import (
    MAX_PARAMS_TAGS_PER_BATCH,
)

# Tags of experiments that MLflow's server looks into (custom views, archival of traces).
_SPECIAL_TAGS = ("mlflow.customView.", "mlflow.trace.")
_BAD_IN_MODEL_NAMES = frozenset("/:.%\"'")
_MAX_NAME = 500
_MAX_MODEL_KEY = 255
_MAX_DIGEST = 36
_MAX_SOURCE = 65_535
_MAX_SCHEMA = 1_048_575
_MAX_INPUT_TAG = (255, 500)
_MAX_MODEL_ID = 36


class Screening:
    """Raises ``PassOnError`` for changes that MLflow's server has to look at."""

    def __init__(self, known: Checks) -> None:
        self._known = known
        self._by_type: dict[type[Change], Callable[[Any], None]] = {
            CreateExperiment: self._create_experiment,
            UpdateExperiment: self._update_experiment,
            DeleteExperiment: self._of_experiment,
            RestoreExperiment: self._of_experiment,
            SetExperimentTag: self._set_experiment_tag,
            DeleteExperimentTag: self._delete_experiment_tag,
            CreateRun: self._create_run,
            UpdateRun: self._update_run,
            DeleteRun: self._of_run,
            RestoreRun: self._of_run,
            LogParam: self._log_param,
            SetTag: self._set_tag,
            DeleteTag: self._delete_tag,
            LogBatch: self._log_batch,
            LogInputs: self._log_inputs,
            LogOutputs: self._log_outputs,
            CreateLoggedModel: self._create_logged_model,
            FinalizeLoggedModel: self._finalize_logged_model,
            LogLoggedModelParams: self._model_pairs,
            SetLoggedModelTags: self._model_pairs,
            DeleteLoggedModelTag: self._delete_model_tag,
        }

    def pass_or_raise(self, change: Change) -> None:
        """Nothing, if the change can be decided here."""
        self._by_type[type(change)](change)

    # --- experiments ------------------------------------------------------------------------------------------

    def _of_experiment(self, change: Any) -> None:
        checks.experiment_id(change.experiment_id)

    def _create_experiment(self, change: CreateExperiment) -> None:
        # MLflow 3.18 takes no blank name, 3.17 does.
        _require(bool(change.name.strip()) and len(change.name) <= checks.MAX_EXPERIMENT_NAME)
        _require(not change.artifact_location)
        checks.each_once(change.tags)
        for tag in change.tags:
            self._experiment_tag(tag.key, tag.value)

    def _experiment_tag(self, key: str, value: str) -> None:
        self._known.name(key)
        _require(len(value) <= checks.MAX_EXPERIMENT_TAG_VALUE and not key.startswith(_SPECIAL_TAGS))

    def _update_experiment(self, change: UpdateExperiment) -> None:
        checks.experiment_id(change.experiment_id)
        _require(bool(change.new_name.strip()) and len(change.new_name) <= checks.MAX_EXPERIMENT_NAME)

    def _set_experiment_tag(self, change: SetExperimentTag) -> None:
        checks.experiment_id(change.experiment_id)
        self._experiment_tag(change.key, change.value)

    def _delete_experiment_tag(self, change: DeleteExperimentTag) -> None:
        checks.experiment_id(change.experiment_id)
        _require(bool(change.key))

    # --- runs -------------------------------------------------------------------------------------------------

    def _of_run(self, change: Any) -> None:
        checks.run_id(change.run_id)

    def _create_run(self, change: CreateRun) -> None:
        checks.experiment_id(change.experiment_id)
        _require(len(change.run_name) <= checks.MAX_RUN_NAME and len(change.user_id) <= checks.MAX_USER_ID)
        checks.each_once(change.tags)
        for tag in change.tags:
            _require(len(tag.key) <= checks.MAX_TAG_KEY and len(tag.value) <= checks.MAX_TAG_VALUE)
            if tag.key == RUN_NAME_TAG:
                _require(0 < len(tag.value) <= checks.MAX_RUN_NAME)

    def _update_run(self, change: UpdateRun) -> None:
        checks.run_id(change.run_id)
        _require(change.status is None or change.status in RUN_STATUSES)
        _require(len(change.run_name or "") <= checks.MAX_RUN_NAME)

    def _log_param(self, change: LogParam) -> None:
        checks.run_id(change.run_id)
        self._known.name(change.key)
        _require(len(change.value) <= checks.MAX_PARAM_VALUE)

    def _set_tag(self, change: SetTag) -> None:
        checks.run_id(change.run_id)
        self._known.name(change.key)
        _require(len(change.value) <= checks.MAX_TAG_VALUE)
        _require(change.key != RUN_NAME_TAG or len(change.value) <= checks.MAX_RUN_NAME)

    def _delete_tag(self, change: DeleteTag) -> None:
        checks.run_id(change.run_id)
        _require(bool(change.key))

    def _log_batch(self, change: LogBatch) -> None:
        checks.run_id(change.run_id)
        _require(max(len(change.params), len(change.tags)) <= MAX_PARAMS_TAGS_PER_BATCH)
        self._known.params(change.params)
        self._known.tags(change.tags)
        for tag in change.tags:
            _require(tag.key != RUN_NAME_TAG or len(tag.value) <= checks.MAX_RUN_NAME)

    def _log_inputs(self, change: LogInputs) -> None:
        checks.run_id(change.run_id)
        for item in change.datasets:
            data = item.dataset
            _require(len(data.name) <= _MAX_NAME and len(data.source) <= _MAX_SOURCE)
            _require(len(data.digest) <= _MAX_DIGEST and len(data.source_type) <= _MAX_DIGEST)
            _require(max(len(data.schema or ""), len(data.profile or "")) <= _MAX_SCHEMA)
            checks.each_once(item.tags)
            for tag in item.tags:
                _require(len(tag.key) <= _MAX_INPUT_TAG[0] and len(tag.value) <= _MAX_INPUT_TAG[1])
        for model in change.models:
            _require(0 < len(model.model_id) <= _MAX_MODEL_ID)

    def _log_outputs(self, change: LogOutputs) -> None:
        checks.run_id(change.run_id)
        ids = [model.model_id for model in change.models]
        _require(bool(ids) and len(set(ids)) == len(ids))
        _require(all(0 < len(model_id) <= _MAX_MODEL_ID for model_id in ids))

    # --- models -----------------------------------------------------------------------------------------------

    def _create_logged_model(self, change: CreateLoggedModel) -> None:
        checks.experiment_id(change.experiment_id)
        _require(len(change.name) <= _MAX_NAME and not _BAD_IN_MODEL_NAMES & set(change.name))
        _require(len(change.model_type) <= _MAX_NAME and len(change.source_run_id) <= _MAX_MODEL_ID - 4)
        for pairs in (change.params, change.tags):
            _model_pairs(pairs)

    def _model_pairs(self, change: Any) -> None:
        _model_id(change.model_id)
        _model_pairs(change.params if isinstance(change, LogLoggedModelParams) else [])
        if isinstance(change, SetLoggedModelTags):
            _require(all(len(tag.key) <= _MAX_MODEL_KEY for tag in change.tags))

    def _finalize_logged_model(self, change: FinalizeLoggedModel) -> None:
        _model_id(change.model_id)
        _require(change.status in MODEL_STATUSES)

    def _delete_model_tag(self, change: DeleteLoggedModelTag) -> None:
        _model_id(change.model_id)
        _require(bool(change.tag_key))


def _require(holds: bool) -> None:
    if not holds:
        raise PassOnError


def _model_id(model_id: str) -> None:
    _require(0 < len(model_id) <= _MAX_MODEL_ID and model_id.isascii() and model_id.isprintable())


def _model_pairs(pairs: list[Pair]) -> None:
    checks.each_once(pairs)
    _require(all(len(pair.key) <= _MAX_MODEL_KEY for pair in pairs))
