"""Traces through the stock client."""

from __future__ import annotations

import uuid

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import AssessmentSource


@pytest.fixture
def traced(client: MlflowClient, experiment_id: str) -> str:
    """A trace of two nested calls."""

    @mlflow.trace
    def double(x: int) -> int:
        return x * 2

    @mlflow.trace(name="answer", attributes={"kind": "test"})
    def answer(x: int) -> int:
        mlflow.update_current_trace(tags={"mark": "m"})
        doubled: int = double(x)
        return doubled + 1

    assert answer(20) == 41
    mlflow.flush_trace_async_logging()
    trace_id: str = mlflow.get_last_active_trace_id()
    return trace_id


def test_trace_is_stored_with_its_spans(client: MlflowClient, traced: str) -> None:
    trace = client.get_trace(traced)
    assert trace.info.state.value == "OK"
    spans = {span.name: span for span in trace.data.spans}
    assert set(spans) == {"answer", "double"}
    assert spans["double"].parent_id == spans["answer"].span_id
    assert (spans["double"].inputs, spans["double"].outputs) == ({"x": 20}, 40)
    assert spans["answer"].attributes["kind"] == "test"


def test_search_and_tag(client: MlflowClient, experiment_id: str, traced: str) -> None:
    mark = uuid.uuid4().hex
    client.set_trace_tag(traced, "mark", mark)
    found = client.search_traces(locations=[experiment_id], filter_string=f"tags.mark = '{mark}'")
    assert [trace.info.trace_id for trace in found] == [traced]
    client.delete_trace_tag(traced, "mark")
    assert not client.search_traces(locations=[experiment_id], filter_string=f"tags.mark = '{mark}'")


def test_feedback(client: MlflowClient, traced: str) -> None:
    source = AssessmentSource(source_type="HUMAN", source_id="ada")
    mlflow.log_feedback(trace_id=traced, name="correct", value=True, source=source, rationale="checked")
    (assessment,) = client.get_trace(traced).info.assessments
    assert (assessment.name, assessment.feedback.value, assessment.rationale) == ("correct", True, "checked")


def test_traces_of_a_run_beside_its_metrics(client: MlflowClient, experiment_id: str) -> None:
    with mlflow.start_run(experiment_id=experiment_id) as run:
        with mlflow.start_span("step") as span:
            span.set_inputs({"n": 1})
            mlflow.log_metric("loss", 0.5)
            span.set_outputs({"loss": 0.5})
    mlflow.flush_trace_async_logging()
    found = client.search_traces(locations=[experiment_id], run_id=run.info.run_id)
    assert [trace.data.spans[0].outputs for trace in found] == [{"loss": 0.5}]
    assert client.get_run(run.info.run_id).data.metrics == {"loss": 0.5}


def test_deleted_traces_are_gone(client: MlflowClient, experiment_id: str, traced: str) -> None:
    assert client.delete_traces(experiment_id, trace_ids=[traced]) == 1
    remaining = client.search_traces(locations=[experiment_id])
    assert traced not in [trace.info.trace_id for trace in remaining]
