"""Answers are printed as MLflow prints them."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.protos.service_pb2 import GetRun
from mlflow.utils.proto_json_utils import message_to_json

from runstream.ingest.control import answers
from runstream.ingest.control.entities import Run

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(deadline=None)
@given(value=st.floats(), text=_texts, step=st.integers(-(2**63), 2**63 - 1))
def test_bytes_are_mlflows(value: float, text: str, step: int) -> None:
    message = GetRun.Response()
    metric = message.run.data.metrics.add(key=text, value=value, timestamp=7, step=step)
    message.run.data.tags.add(key="k", value=text)
    body = {
        "run": {
            "data": {
                "metrics": [
                    {"key": text, "value": answers.number(metric.value), "timestamp": 7, "step": step}
                ],
                "tags": answers.pairs([("k", text)]),
            }
        }
    }
    assert answers.render(body).decode() == message_to_json(message)


def test_nan_is_known_by_its_column() -> None:
    assert answers.number(0.0, is_nan=True) == "NaN"
    assert answers.number(math.inf) == "Infinity"


def test_a_run_shows_no_end_before_there_is_one() -> None:
    run = Run("a", "n", "u", "RUNNING", 1, None, "active", None, 3)
    assert "end_time" not in answers.run_info(run)
    assert list(answers.run_info(run)) == [
        "run_uuid",
        "experiment_id",
        "run_name",
        "user_id",
        "status",
        "start_time",
        "lifecycle_stage",
        "run_id",
    ]


def test_a_repeated_key_has_its_last_value_in_its_first_place() -> None:
    assert answers.pairs([("a", "1"), ("b", "2"), ("a", "3")]) == [
        {"key": "a", "value": "3"},
        {"key": "b", "value": "2"},
    ]
