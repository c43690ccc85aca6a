"""Logged models, the model registry and prompts, through the stock client."""

from __future__ import annotations

import math
import uuid

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from support.mlflow_client import Rest

T0 = 1_700_000_000_000


@pytest.fixture
def model_id(client: MlflowClient, experiment_id: str, run_id: str) -> str:
    """A logged model of the test's run."""
    model = client.create_logged_model(experiment_id, name="net", source_run_id=run_id, params={"depth": "2"})
    created: str = client.finalize_logged_model(model.model_id, "READY").model_id
    return created


def test_metrics_of_a_logged_model(client: MlflowClient, run_id: str, model_id: str) -> None:
    client.log_metric(run_id, "acc", 0.5, step=0, timestamp=T0, model_id=model_id)
    client.log_metric(run_id, "acc", 0.75, step=1, timestamp=T0, model_id=model_id)
    client.log_batch(
        run_id,
        [Metric("f1", 0.25, T0, 0, model_id=model_id), Metric("plain", 1.0, T0, 0)],
    )

    model = client.get_logged_model(model_id)
    assert {(m.key, m.value, m.step, m.run_id) for m in model.metrics} == {
        ("acc", 0.5, 0, run_id),
        ("acc", 0.75, 1, run_id),
        ("f1", 0.25, 0, run_id),
    }
    # They are the run's metrics as well.
    assert client.get_run(run_id).data.metrics == {"acc": 0.75, "f1": 0.25, "plain": 1.0}
    assert [m.value for m in client.get_metric_history(run_id, "acc")] == [0.5, 0.75]


def test_metric_of_an_unknown_model(client: MlflowClient, run_id: str) -> None:
    with pytest.raises(MlflowException):
        client.log_metric(run_id, "acc", 0.5, model_id=f"m-{uuid.uuid4().hex}")


def test_search_logged_models_by_metric(client: MlflowClient, experiment_id: str) -> None:
    mark = uuid.uuid4().hex
    models = []
    for number in range(4):
        run = client.create_run(experiment_id)
        model = client.create_logged_model(
            experiment_id, name=f"net-{number}", source_run_id=run.info.run_id, tags={"mark": mark}
        )
        client.log_metric(run.info.run_id, "acc", number / 4, step=3, model_id=model.model_id)
        client.finalize_logged_model(model.model_id, "READY")
        models.append(model.model_id)

    def found(**query: object) -> list[str]:
        return [m.model_id for m in client.search_logged_models([experiment_id], **query)]

    by_acc = [{"field_name": "metrics.acc", "ascending": False}]
    assert found(filter_string=f"tags.mark = '{mark}'", order_by=by_acc) == models[::-1]
    assert (
        found(filter_string=f"tags.mark = '{mark}' AND metrics.acc >= 0.5", order_by=by_acc) == models[:1:-1]
    )
    first = client.search_logged_models(
        [experiment_id], f"tags.mark = '{mark}'", order_by=by_acc, max_results=3
    )
    second = client.search_logged_models(
        [experiment_id], f"tags.mark = '{mark}'", order_by=by_acc, max_results=3, page_token=first.token
    )
    assert [m.model_id for m in [*first, *second]] == models[::-1]


def test_active_model_collects_fluent_metrics(client: MlflowClient, experiment_id: str) -> None:
    with mlflow.start_run() as run:
        model = mlflow.set_active_model(name=f"active-{uuid.uuid4().hex[:6]}")
        mlflow.log_metric("loss", 0.5)
    mlflow.clear_active_model()
    assert [(m.key, m.value) for m in client.get_logged_model(model.model_id).metrics] == [("loss", 0.5)]
    assert client.get_run(run.info.run_id).data.metrics == {"loss": 0.5}


def test_infinite_metric_of_a_model(client: MlflowClient, run_id: str, model_id: str) -> None:
    client.log_metric(run_id, "m", math.inf, model_id=model_id)
    (metric,) = client.get_logged_model(model_id).metrics
    assert metric.value == client.get_run(run_id).data.metrics["m"]


def test_registry(client: MlflowClient, rest: Rest, run_id: str) -> None:
    name = f"digits-{uuid.uuid4().hex[:8]}"
    client.create_registered_model(name, tags={"task": "ocr"}, description="reads digits")
    client.log_metric(run_id, "acc", 0.9)
    versions = [client.create_model_version(name, f"runs:/{run_id}/model", run_id=run_id) for _ in range(2)]
    assert [int(v.version) for v in versions] == [1, 2]

    client.set_registered_model_alias(name, "champion", "2")
    client.set_model_version_tag(name, "1", "checked", "yes")
    client.update_model_version(name, "1", description="the first")
    assert int(client.get_model_version_by_alias(name, "champion").version) == 2
    assert client.get_model_version(name, "1").tags == {"checked": "yes"}
    assert client.get_model_version(name, "1").description == "the first"
    assert len(client.search_model_versions(f"run_id = '{run_id}'")) == 2
    assert [m.name for m in client.search_registered_models(f"name = '{name}'")] == [name]

    query = "query Q($i: MlflowGetRunInput!) { mlflowGetRun(input: $i) { run { modelVersions { name version } } } }"
    answer = rest.post("graphql", {"query": query, "variables": {"i": {"runId": run_id}}})
    assert {v["version"] for v in answer["data"]["mlflowGetRun"]["run"]["modelVersions"]} == {"1", "2"}

    client.delete_model_version(name, "1")
    client.rename_registered_model(name, f"{name}-x")
    assert [int(v.version) for v in client.get_registered_model(f"{name}-x").latest_versions] == [2]
    client.delete_registered_model_alias(f"{name}-x", "champion")
    client.delete_registered_model(f"{name}-x")
    with pytest.raises(MlflowException, match="not found"):
        client.get_registered_model(f"{name}-x")


def test_prompts(client: MlflowClient) -> None:
    name = f"greeting-{uuid.uuid4().hex[:8]}"
    client.register_prompt(name, "Hello {{who}}", commit_message="first", tags={"tone": "kind"})
    second = client.register_prompt(name, "Good day, {{who}}")
    assert int(second.version) == 2

    assert client.load_prompt(f"prompts:/{name}/1").format(who="Ada") == "Hello Ada"
    client.set_prompt_alias(name, "live", 2)
    assert client.load_prompt(f"prompts:/{name}@live").template == "Good day, {{who}}"
    assert [p.name for p in client.search_prompts(f"name = '{name}'")] == [name]
    client.delete_prompt_alias(name, "live")
    client.delete_prompt_version(name, "1")
    assert client.load_prompt(name, 1, allow_missing=True) is None
