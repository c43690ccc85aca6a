"""Changes of experiments, runs and models, one class for each of MLflow's REST calls.

The fields are the request's, with protobuf's defaults. What is decoded into these classes is plain; a request that does
not fit exactly (unknown fields, odd spellings, wrong types) is MLflow's server's to answer.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from runstream.schemas.mlflow.limits import INT64_MAX, INT64_MIN

Int64 = Annotated[int, msgspec.Meta(ge=INT64_MIN, le=INT64_MAX)]
# The id that a client gives to what it creates: the same call again then answers with the same thing.
GivenId = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
GivenModelId = Annotated[str, msgspec.Meta(pattern=r"\A(?:m-)?[0-9a-f]{32}\Z")]


class Pair(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A param or a tag."""

    key: str
    value: str = ""


class Change(msgspec.Struct, forbid_unknown_fields=True, gc=False, kw_only=True):
    """Any of the classes below."""


class CreateExperiment(Change):
    """``experiments/create``. ``key`` is not MLflow's: a second call with the same key gets the first one's answer."""

    name: str
    artifact_location: str = ""
    tags: list[Pair] = []
    key: str | None = None


class UpdateExperiment(Change):
    """``experiments/update``: a new name."""

    experiment_id: str
    new_name: str = ""


class DeleteExperiment(Change):
    """``experiments/delete``: the experiment and its runs are marked."""

    experiment_id: str


class RestoreExperiment(Change):
    """``experiments/restore``."""

    experiment_id: str


class SetExperimentTag(Change):
    """``experiments/set-experiment-tag``."""

    experiment_id: str
    key: str
    value: str


class DeleteExperimentTag(Change):
    """``experiments/delete-experiment-tag``."""

    experiment_id: str
    key: str


class CreateRun(Change):
    """``runs/create``. ``run_id`` is not MLflow's: it is the run's id, chosen by the client, and if such a run is
    there already, the answer is that run."""

    experiment_id: str = ""
    user_id: str = ""
    run_name: str = ""
    start_time: Int64 = 0
    tags: list[Pair] = []
    run_id: GivenId | None = None


class UpdateRun(Change):
    """``runs/update``. ``status`` is MLflow's name for it (``FINISHED``)."""

    run_id: str
    run_uuid: str = ""
    status: str | None = None
    end_time: Int64 | None = None
    run_name: str | None = None


class DeleteRun(Change):
    """``runs/delete``: the run is marked."""

    run_id: str


class RestoreRun(Change):
    """``runs/restore``."""

    run_id: str


class LogParam(Change):
    """``runs/log-parameter``."""

    run_id: str
    key: str
    value: str
    run_uuid: str = ""


class SetTag(Change):
    """``runs/set-tag``."""

    run_id: str
    key: str
    value: str
    run_uuid: str = ""


class DeleteTag(Change):
    """``runs/delete-tag``."""

    run_id: str
    key: str


class LogBatch(Change):
    """The params and tags of ``runs/log-batch``. Its metrics, if any, go another way after this."""

    run_id: str
    params: list[Pair] = []
    tags: list[Pair] = []


class Dataset(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A dataset of ``runs/log-inputs``."""

    name: str
    digest: str
    source_type: str = ""
    source: str = ""
    schema: str | None = None
    profile: str | None = None


class DatasetInput(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A dataset as the input of a run."""

    dataset: Dataset
    tags: list[Pair] = []


class ModelInput(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A logged model as the input of a run."""

    model_id: str


class ModelOutput(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A logged model as the output of a run."""

    model_id: str
    step: Int64 = 0


class LogInputs(Change):
    """``runs/log-inputs``."""

    run_id: str
    datasets: list[DatasetInput] = []
    models: list[ModelInput] = []


class LogOutputs(Change):
    """``runs/outputs``."""

    run_id: str
    models: list[ModelOutput] = []


class CreateLoggedModel(Change):
    """``POST logged-models``. ``model_id`` is not MLflow's: as ``CreateRun.run_id``, with or without MLflow's
    ``m-`` before it."""

    experiment_id: str = ""
    name: str = ""
    model_type: str = ""
    source_run_id: str = ""
    params: list[Pair] = []
    tags: list[Pair] = []
    model_id: GivenModelId | None = None


class FinalizeLoggedModel(Change):
    """``PATCH logged-models/{model_id}``. ``status`` is MLflow's name (``LOGGED_MODEL_READY``)."""

    model_id: str
    status: str


class LogLoggedModelParams(Change):
    """``POST logged-models/{model_id}/params``."""

    model_id: str
    params: list[Pair] = []


class SetLoggedModelTags(Change):
    """``PATCH logged-models/{model_id}/tags``."""

    model_id: str
    tags: list[Pair] = []


class DeleteLoggedModelTag(Change):
    """``DELETE logged-models/{model_id}/tags/{tag_key}``."""

    model_id: str
    tag_key: str


class SearchModelsByName(msgspec.Struct, forbid_unknown_fields=True):
    """``logged-models/search``, as far as MLflow's client asks whether a run's artifacts are those of a model."""

    experiment_ids: list[str]
    filter: str
