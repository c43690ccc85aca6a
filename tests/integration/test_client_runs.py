"""Experiments, runs, params, tags and inputs, through the stock client."""

from __future__ import annotations

import uuid

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Param, RunTag, ViewType
from mlflow.exceptions import MlflowException


def test_experiment_life(client: MlflowClient) -> None:
    name = f"life-{uuid.uuid4().hex}"
    made = client.create_experiment(name, tags={"team": "vision"})

    found = client.get_experiment(made)
    assert (found.name, found.tags, found.lifecycle_stage) == (name, {"team": "vision"}, "active")
    assert client.get_experiment_by_name(name).experiment_id == made
    with pytest.raises(MlflowException, match="already exists"):
        client.create_experiment(name)

    client.rename_experiment(made, f"{name}-2")
    client.set_experiment_tag(made, "stage", "dev")
    assert client.get_experiment(made).name == f"{name}-2"
    assert client.get_experiment(made).tags["stage"] == "dev"
    client.delete_experiment_tag(made, "stage")
    assert "stage" not in client.get_experiment(made).tags

    client.delete_experiment(made)
    assert client.get_experiment(made).lifecycle_stage == "deleted"
    with pytest.raises(MlflowException, match="active"):
        client.create_run(made)
    client.restore_experiment(made)
    assert client.get_experiment(made).lifecycle_stage == "active"


def test_search_experiments_in_pages(client: MlflowClient) -> None:
    mark = uuid.uuid4().hex
    made = [client.create_experiment(f"page-{mark}-{n}", tags={"mark": mark}) for n in range(5)]

    first = client.search_experiments(
        filter_string=f"tags.mark = '{mark}'", max_results=3, order_by=["name ASC"]
    )
    rest = client.search_experiments(
        filter_string=f"tags.mark = '{mark}'", max_results=3, order_by=["name ASC"], page_token=first.token
    )

    assert [e.experiment_id for e in [*first, *rest]] == made
    assert not rest.token


def test_run_life(client: MlflowClient, experiment_id: str) -> None:
    run = client.create_run(experiment_id, run_name="first", tags={"kind": "test"})
    run_id = run.info.run_id
    assert (run.info.status, run.info.run_name, run.data.tags["kind"]) == ("RUNNING", "first", "test")

    client.update_run(run_id, status="SCHEDULED", name="second")
    assert client.get_run(run_id).info.run_name == "second"
    assert client.get_run(run_id).info.status == "SCHEDULED"

    client.log_metric(run_id, "m", 1.0)
    client.set_terminated(run_id, "KILLED")
    ended = client.get_run(run_id)
    assert ended.info.status == "KILLED"
    assert ended.info.end_time is not None
    client.log_metric(run_id, "m", 2.0, step=1)  # MLflow accepts points for a run that has ended
    assert client.get_run(run_id).data.metrics == {"m": 2.0}


def test_deleted_run_refuses_metrics_until_restored(client: MlflowClient, run_id: str) -> None:
    client.log_metric(run_id, "m", 1.0)
    client.delete_run(run_id)

    assert client.get_run(run_id).info.lifecycle_stage == "deleted"
    for _ in range(5):  # through any gateway
        with pytest.raises(MlflowException, match="must be in the 'active' state"):
            client.log_metric(run_id, "m", 2.0, step=1)
    assert len(client.get_metric_history(run_id, "m")) == 1

    client.restore_run(run_id)
    for step in range(2, 7):
        client.log_metric(run_id, "m", 3.0, step=step)
    assert [m.step for m in client.get_metric_history(run_id, "m")] == [0, 2, 3, 4, 5, 6]


def test_deleted_experiment_refuses_metrics_until_restored(client: MlflowClient) -> None:
    made = client.create_experiment(f"deleted-{uuid.uuid4().hex}")
    run_id = client.create_run(made).info.run_id
    client.log_metric(run_id, "m", 1.0)

    client.delete_experiment(made)
    for _ in range(5):
        with pytest.raises(MlflowException, match="must be in the 'active' state"):
            client.log_metric(run_id, "m", 2.0, step=1)

    client.restore_experiment(made)
    for _ in range(5):
        client.log_metric(run_id, "m", 2.0, step=1)
    assert client.get_run(run_id).data.metrics == {"m": 2.0}


def test_unknown_run(client: MlflowClient) -> None:
    with pytest.raises(MlflowException, match="not found") as refused:
        client.log_metric(uuid.uuid4().hex, "m", 1.0)
    assert refused.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_fluent_nested_runs(client: MlflowClient, experiment_id: str) -> None:
    with mlflow.start_run(experiment_id=experiment_id, run_name="parent") as parent:
        mlflow.log_param("lr", 0.1)
        mlflow.log_metric("loss", 2.0)
        for child_number in range(2):
            with mlflow.start_run(
                experiment_id=experiment_id, run_name=f"child-{child_number}", nested=True
            ) as child:
                mlflow.log_metric("loss", child_number)
                assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        mlflow.log_metric("loss", 1.0, step=1)

    children = client.search_runs(
        [experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'", order_by=["metrics.loss ASC"]
    )
    assert [child.data.metrics["loss"] for child in children] == [0.0, 1.0]
    read = client.get_run(parent.info.run_id)
    assert (read.info.status, read.data.metrics, read.data.params) == (
        "FINISHED",
        {"loss": 1.0},
        {"lr": "0.1"},
    )


def test_resumed_run(experiment_id: str) -> None:
    with mlflow.start_run(experiment_id=experiment_id) as run:
        mlflow.log_metric("m", 1.0)
    with mlflow.start_run(run_id=run.info.run_id) as resumed:
        assert resumed.data.metrics == {"m": 1.0}
        mlflow.log_metric("m", 2.0, step=1)
    assert mlflow.get_run(run.info.run_id).data.metrics == {"m": 2.0}


def test_params_and_tags(client: MlflowClient, run_id: str) -> None:
    client.log_param(run_id, "depth", 3)
    client.log_param(run_id, "depth", 3)  # the same value again is fine
    with pytest.raises(MlflowException, match="Changing param values is not allowed"):
        client.log_param(run_id, "depth", 4)
    client.log_batch(
        run_id,
        params=[Param(f"p{n}", str(n)) for n in range(100)],
        tags=[RunTag("colour", "blue"), RunTag("mlflow.note.content", "a note")],
    )
    client.set_tag(run_id, "colour", "green")
    client.delete_tag(run_id, "mlflow.note.content")

    data = client.get_run(run_id).data
    assert data.params == {"depth": "3", **{f"p{n}": str(n) for n in range(100)}}
    assert data.tags["colour"] == "green"
    assert "mlflow.note.content" not in data.tags


def test_batch_of_everything(client: MlflowClient, run_id: str) -> None:
    now = 1_700_000_000_000
    client.log_batch(
        run_id,
        metrics=[mlflow.entities.Metric("m", value, now + value, value) for value in range(100)],
        params=[Param("p", "1")],
        tags=[RunTag("t", "2")],
    )
    data = client.get_run(run_id).data
    assert (data.metrics, data.params, data.tags["t"]) == ({"m": 99.0}, {"p": "1"}, "2")
    assert len(client.get_metric_history(run_id, "m")) == 100


def test_conflicting_param_stops_metrics_of_the_batch(client: MlflowClient, run_id: str) -> None:
    client.log_param(run_id, "p", "old")
    with pytest.raises(MlflowException, match="Changing param values is not allowed"):
        client.log_batch(run_id, metrics=[mlflow.entities.Metric("m", 1, 1, 1)], params=[Param("p", "new")])
    assert client.get_run(run_id).data.metrics == {}
    assert client.get_metric_history(run_id, "m") == []


def test_datasets(client: MlflowClient, experiment_id: str) -> None:
    name = f"digits-{uuid.uuid4().hex[:8]}"
    features = np.arange(20.0).reshape(10, 2)
    dataset = mlflow.data.from_numpy(features, targets=features[:, 0], name=name, digest="abc123")
    with mlflow.start_run(experiment_id=experiment_id) as run:
        mlflow.log_input(dataset, context="training", tags={"split": "a"})
        mlflow.log_metric("loss", 0.5, dataset=dataset)

    inputs = client.get_run(run.info.run_id).inputs.dataset_inputs
    assert [(i.dataset.name, i.dataset.digest) for i in inputs] == [(name, "abc123")]
    assert {t.key: t.value for t in inputs[0].tags}["mlflow.data.context"] == "training"
    found = client.search_runs([experiment_id], f"dataset.name = '{name}' AND metrics.loss < 1")
    assert [r.info.run_id for r in found] == [run.info.run_id]
    assert client.search_runs([experiment_id], f"dataset.name = '{name}' AND metrics.loss > 1") == []


def test_deleted_runs_are_listed_on_request(client: MlflowClient, experiment_id: str) -> None:
    run_id = client.create_run(experiment_id, tags={"only": "deleted"}).info.run_id
    client.log_metric(run_id, "m", 5.0)
    client.delete_run(run_id)
    found = client.search_runs(
        [experiment_id], "tags.only = 'deleted' AND metrics.m = 5", ViewType.DELETED_ONLY
    )
    assert [r.info.run_id for r in found] == [run_id]
    assert client.search_runs([experiment_id], "tags.only = 'deleted'") == []
