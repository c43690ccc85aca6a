"""The metric writes: what is understood, and as which columns."""

from __future__ import annotations

import json
import math
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runstream.ingest.gateway.writes.judge import judge_log_batch, judge_log_metric
from runstream.ingest.gateway.writes.parse import LogRequest, parse_log_batch, parse_log_metric
from runstream.schemas.errors import MlflowError
from runstream.schemas.mlflow.names import KnownNames

JSON = "application/json"
RUN = "0123456789abcdef0123456789abcdef"


def batch(**fields: Any) -> bytes:
    return json.dumps({"run_id": RUN, **fields}).encode()


def metric(**fields: Any) -> dict[str, Any]:
    return {"key": "loss", "value": 0.5, "timestamp": 1_700_000_000_000, "step": 3, **fields}


def bits(values: list[float]) -> list[bytes]:
    return [struct.pack("<d", value) for value in values]


def test_a_batch_becomes_columns() -> None:
    body = batch(
        metrics=[metric(), metric(key="acc", value=1, step=-4), {"key": "a b/c", "value": 2, "timestamp": 0}]
    )
    request = parse_log_batch(body, JSON)
    assert request == LogRequest(
        RUN,
        ["loss", "acc", "a b/c"],
        [3, -4, 0],
        [1_700_000_000_000, 1_700_000_000_000, 0],
        [0.5, 1.0, 2.0],
    )
    assert all(type(value) is float for value in request.values)


def test_a_single_metric_becomes_columns_of_one() -> None:
    body = json.dumps({"run_id": RUN, "run_uuid": RUN, **metric()}).encode()
    assert parse_log_metric(body, JSON) == LogRequest(RUN, ["loss"], [3], [1_700_000_000_000], [0.5])


def test_an_empty_batch_has_nothing_to_do() -> None:
    assert parse_log_batch(batch(), JSON) == LogRequest(RUN)


def test_params_and_tags_are_forwarded_and_metrics_are_not() -> None:
    params = [{"key": "lr", "value": "0.1"}, {"key": "empty"}]
    tags = [{"key": "mlflow.runName", "value": 'ü\u2028\x00"name"'}]
    request = parse_log_batch(batch(metrics=[metric()], params=params, tags=tags), JSON)
    assert request.keys == ["loss"]
    assert request.forward is not None
    assert json.loads(request.forward) == {
        "run_id": RUN,
        "params": [{"key": "lr", "value": "0.1"}, {"key": "empty", "value": ""}],
        "tags": tags,
    }


@pytest.mark.parametrize("name", ["model_id", "modelId"])
def test_metrics_of_models_are_forwarded_instead_of_queued(name: str) -> None:
    of_model = metric(key="acc", value="NaN", dataset_name="d", dataset_digest="1", **{name: "m-1"})
    request = parse_log_batch(batch(metrics=[metric(), of_model, metric(model_id="")]), JSON)
    assert request.keys == ["loss", "loss"]
    assert request.forward is not None
    (forwarded,) = json.loads(request.forward)["metrics"]
    assert forwarded == {
        "key": "acc",
        "value": "NaN",
        "timestamp": 1_700_000_000_000,
        "step": 3,
        "model_id": "m-1",
        "dataset_name": "d",
        "dataset_digest": "1",
    }


def test_a_single_metric_of_a_model_is_forwarded_instead_of_queued() -> None:
    body = json.dumps({"run_id": RUN, **metric(value="-Infinity", model_id="m-1")}).encode()
    request = parse_log_metric(body, JSON)
    assert request.keys == []
    assert request.forward is not None
    forwarded = json.loads(request.forward)
    assert (forwarded["run_id"], forwarded["model_id"], forwarded["value"]) == (RUN, "m-1", "-Infinity")


@given(st.lists(st.floats(), max_size=20), st.booleans())
@example([5e-324, -5e-324, 1.7976931348623157e308, math.nan, math.inf, -math.inf, 0.1], True)
def test_values_keep_every_bit(values: list[float], as_text: bool) -> None:
    def written(value: float) -> float | str:
        if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return repr(value) if as_text else value

    # MLflow takes 0.0 and -0.0 for one value; NaN's payload does not travel in JSON.
    expected = [math.nan if math.isnan(value) else value + 0.0 for value in values]
    body = batch(metrics=[metric(value=written(value)) for value in values])
    assert bits([value + 0.0 for value in parse_log_batch(body, JSON).values]) == bits(expected)


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20),
    st.lists(st.integers(0, 2**63 - 1), min_size=20, max_size=20),
    st.booleans(),
)
def test_steps_and_timestamps_keep_their_whole_range(
    steps: list[int], times: list[int], as_text: bool
) -> None:
    def written(number: int) -> int | str:
        return str(number) if as_text else number

    metrics = [
        metric(step=written(step), timestamp=written(time)) for step, time in zip(steps, times, strict=False)
    ]
    request = parse_log_batch(batch(metrics=metrics), JSON)
    assert (request.steps, request.timestamps) == (steps, times[: len(steps)])


@pytest.mark.parametrize("value", ["nan", "n\\u0061n"])
def test_lower_case_nan_is_no_number_of_protobufs(value: str) -> None:
    body = batch(metrics=[metric(value="@")]).replace(b"@", value.encode())
    error = parse_log_batch(body, JSON).deferred_error
    assert error is not None
    assert "metrics[0].value" in error.message


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_that_json_has_not_are_refused_and_not_stored_as_zero(text: str) -> None:
    body = batch(metrics=[metric(value="@")]).replace(b'"@"', text.encode())
    request = parse_log_batch(body, JSON)
    assert request.keys == []
    assert request.deferred_error is not None
    assert request.deferred_error.code == "INVALID_PARAMETER_VALUE"


def test_half_of_a_request_is_not_taken() -> None:
    body = batch(metrics=[metric(), metric(step="x"), metric()], params=[{"key": "a"}])
    request = parse_log_batch(body, JSON)
    assert (request.keys, request.forward) == ([], None)
    assert request.deferred_error is not None
    assert request.deferred_error.message == (
        "Invalid value \"x\" for parameter 'metrics[1].step' supplied: expected a 64-bit integer."
    )


def test_complaints_do_not_repeat_a_whole_body() -> None:
    error = parse_log_batch(batch(metrics=[metric(step="x" * 100_000)]), JSON).deferred_error
    assert error is not None
    assert len(error.message) < 1000


@pytest.mark.parametrize("parse", [parse_log_batch, parse_log_metric])
@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 20_000 + b"]" * 20_000])
def test_deep_nesting_is_refused(parse: Any, body: bytes) -> None:
    with pytest.raises(MlflowError) as refused:
        parse(body, JSON)
    assert refused.value.code == "INVALID_PARAMETER_VALUE"


def test_names_once_checked_do_not_fill_the_memory() -> None:
    names = KnownNames()
    tracemalloc.start()
    try:
        for start in range(0, 200_000, 1000):
            assert names.all_valid([f"{number:0>250}" for number in range(start, start + 1000)])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(names) <= 20_000
    assert held < 12_000_000


def test_more_new_names_than_the_memory_holds() -> None:
    names = KnownNames(limit=3)
    assert names.all_valid(list("abcdef"))
    assert len(names) <= 3
    assert not names.all_valid([*"abc", "../x"])


# --- whatever the fast path takes, the slow path takes alike

_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**65), 2**65),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(
        ["", "1", "-0", "1.0", "1e3", "nan", "NaN", "Infinity", "inf", " 1", "1_0", "007", "٣", RUN]
    ),
)
_metrics = st.fixed_dictionaries(
    {
        "key": st.sampled_from(["a", "b/c", "", "../a", "é"]) | _scalars,
        "value": _scalars,
        "timestamp": _scalars,
    },
    optional={
        "step": _scalars,
        "model_id": _scalars,
        "dataset_name": _scalars,
        "dataset_digest": _scalars,
        "x": _scalars,
    },
)
_likely_metrics = st.fixed_dictionaries(
    {
        "key": st.sampled_from(["a", "b/c", "é"]),
        "value": st.floats(allow_nan=False, allow_infinity=False)
        | st.sampled_from(["NaN", "-Infinity", "1.50", "-0"]),
        "timestamp": st.integers(0, 2**63 - 1) | st.integers(0, 2**63 - 1).map(str),
    },
    optional={"step": st.integers(-(2**63), 2**63 - 1), "model_id": st.sampled_from(["", "m-1"])},
)
_pairs = st.lists(
    st.fixed_dictionaries({"key": st.sampled_from(["a", "b", ""])}, optional={"value": st.text(max_size=3)}),
    max_size=3,
)


def _outcome(parse: Any, body: bytes) -> tuple[Any, ...]:
    try:
        request = parse(body, JSON)
    except MlflowError as error:
        return error.code, error.body()
    deferred = request.deferred_error and request.deferred_error.body()
    forward = request.forward and json.loads(request.forward)
    columns = zip(request.keys, request.steps, request.timestamps, request.values, strict=True)
    return (
        request.run_id,
        repr(list(columns)).replace("-0.0", "0.0"),
        repr(forward).replace("-0.0", "0.0"),
        deferred,
    )


@given(
    st.lists(_likely_metrics | _metrics, max_size=4), _pairs, _pairs, st.sampled_from([RUN, "", "a b", None])
)
def test_both_paths_agree_on_batches(metrics: list[Any], params: Any, tags: Any, run_id: str | None) -> None:
    body = json.dumps({"run_id": run_id, "metrics": metrics, "params": params, "tags": tags}).encode()
    assert _outcome(parse_log_batch, body) == _outcome(judge_log_batch, body)


@given(
    _likely_metrics | _metrics, st.dictionaries(st.sampled_from(["run_id", "run_uuid", "runUuid"]), _scalars)
)
def test_both_paths_agree_on_single_metrics(fields: dict[str, Any], ids: dict[str, Any]) -> None:
    body = json.dumps({"run_id": RUN, **fields, **ids}).encode()
    assert _outcome(parse_log_metric, body) == _outcome(judge_log_metric, body)


_SEED = (
    b'{"run_id":"%b","metrics":[{"key":"a\\u00e9","value":-1.5e-3,"timestamp":12,"step":"4"}]}' % RUN.encode()
)


@given(st.data())
def test_both_paths_agree_on_damaged_text(data: st.DataObject) -> None:
    body = bytearray(_SEED)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.binary(max_size=2)
            | st.sampled_from(
                [
                    b"0",
                    b"e",
                    b".",
                    b"-",
                    b"+",
                    b'"',
                    b"\\",
                    b"\x00",
                    b"\x1f",
                    b" ",
                    b"\xed\xa0\x80",
                    b"//",
                    b",",
                    b"_",
                ]
            )
        )
    assert _outcome(parse_log_batch, bytes(body)) == _outcome(judge_log_batch, bytes(body))
