"""Requests on the metric plane that nobody has thought of: hypothesis makes them up."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from support.verdicts.requests import (
    Raw,
    Request,
    bulk,
    dump,
    history,
    interval,
    log_batch,
    log_metric,
)
from support.verdicts.values import KEYS, ODD_VALUES

_numbers = (
    st.floats().map(lambda value: value if value - value == 0 else str(value))
    | st.integers(-(2**65), 2**65)
    | st.integers(0, 2**63 - 1).map(str)
    | st.floats(allow_nan=False, allow_infinity=False).map(repr)
)
_odd = st.sampled_from(list(ODD_VALUES.values()))
_texts = st.text(max_size=8) | st.sampled_from(list(KEYS.values()))
_anything = st.recursive(
    st.none() | st.booleans() | _numbers | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


_whole = (
    st.integers(0, 2**63 - 1)
    | st.integers(0, 50)
    | st.integers(0, 50).map(str)
    | st.integers(0, 50).map(float)
)
_name = st.sampled_from(["a", "a", "b", "b/c", "naïve é", "x y.z-1:2"])
_dataset = st.sampled_from([{}, {}, {"dataset_name": "d", "dataset_digest": "e"}, {"dataset_name": ""}])
_points = st.fixed_dictionaries(
    {"key": _name, "value": _numbers | st.booleans(), "timestamp": _whole},
    optional={"step": _whole | st.integers(-(2**63), 2**63 - 1), "model_id": st.just("")},
)
_points_with_datasets = st.tuples(_points, _dataset).map(lambda parts: parts[0] | parts[1])
_pairs = st.fixed_dictionaries({"key": st.sampled_from("abcdef")}, optional={"value": st.text(max_size=5)})
_run_ids = st.sampled_from(["@active@"] * 8 + ["@deleted@", "@unknown@"])
_batches = st.fixed_dictionaries(
    {"run_id": _run_ids},
    optional={
        "metrics": st.lists(_points_with_datasets, max_size=5),
        "params": st.lists(_pairs, max_size=3, unique_by=lambda pair: str(pair["key"])),
        "tags": st.lists(_pairs, max_size=3),
    },
)
_singles = st.tuples(_points_with_datasets, st.fixed_dictionaries({"run_id": _run_ids})).map(
    lambda parts: parts[0] | parts[1]
)
_fields = st.sampled_from(
    [
        "run_id",
        "run_uuid",
        "key",
        "value",
        "timestamp",
        "step",
        "model_id",
        "dataset_name",
        "dataset_digest",
        "metrics",
        "params",
        "tags",
        "runId",
        "runUuid",
        "modelId",
        "datasetName",
        "datasetDigest",
        "[x.y]",
        "[]",
        "Key",
        "unknown",
    ]
)


@st.composite
def writes(draw: st.DrawFn) -> Request:
    """A good request to log-metric or log-batch in which a thing or two have gone wrong."""
    make, bodies = draw(st.sampled_from([(log_batch, _batches), (log_metric, _singles)]))
    body: dict[str, Any] = draw(bodies)
    body = {name: body[name] for name in draw(st.permutations(list(body)))}
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 1, 1, 2, 3]))):
        nested = [item for value in body.values() if isinstance(value, list) for item in value]
        target = draw(st.sampled_from([body, *(item for item in nested if isinstance(item, dict))]))
        name = draw(st.sampled_from(list(target)) | _fields if target else _fields)
        value = draw(_odd | _anything)
        if value is ...:
            target.pop(name, None)
        else:
            target[name] = value
    text = dump(body)
    for _ in range(draw(st.sampled_from([0] * 12 + [1, 2]))):  # a slip of the pen
        at = draw(st.integers(0, len(text)))
        slip = draw(st.sampled_from(["", '"', ",", "}", "]", "0", "e", "-", "\\", "\x00", "{", "null", " "]))
        text = text[:at] + slip + text[at + draw(st.integers(0, 2)) :]
    if draw(st.integers(0, 19)) == 0:
        text = json.dumps(text)
    request: Request = make(Raw(text))
    return request


_parameters = st.sampled_from(
    ["1", "3", "-1", "0", "2500", "2501", "25001", "x", "", "1.0", "1e1", " 2", "2147483648"]
)
_tokens = st.sampled_from(["", "abc", "eyJvZmZzZXQiOiA3fQ==", "eyJvZmZzZXQiOiAiNyJ9", "e30=", "W10=", "%"])
_known_runs = st.sampled_from(["@history@", "@history2@", "@empty@", "@deleted@", "@unknown@", "", "a b"])
_keys = st.sampled_from(["k", "k", "nan", "inf", "extreme", "none", "", "../k"])
_run_lists = st.lists(_known_runs, max_size=4)


def _queries(make: Any, required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Request]:
    full = st.fixed_dictionaries(required, optional=optional)
    fields = full | st.fixed_dictionaries({}, optional=required | optional)
    return fields.map(lambda query: make(**query))


_limits = {"max_results": _parameters}
_steps = {"start_step": _parameters, "end_step": _parameters}
READ = (
    _queries(history, {"run_id": _known_runs, "metric_key": _keys}, _limits | {"page_token": _tokens})
    | _queries(bulk, {"run_id": _run_lists, "metric_key": _keys}, _limits)
    | _queries(interval, {"run_ids": _run_lists, "metric_key": _keys}, _limits | _steps)
)
