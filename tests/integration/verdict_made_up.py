"""Requests on the metric plane that nobody has thought of: hypothesis makes them up."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from integration.verdict_requests import Raw, Request, bulk, dump, history, interval, log_batch, log_metric
from integration.verdict_values import KEYS, ODD_VALUES

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


def _mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 9).flatmap(lambda roll: good if roll < 8 else _odd | _anything)


_good_fields = {
    "key": _mostly(st.sampled_from(["a", "b/c", "naïve é", "x y.z-1:2"])),
    "value": _mostly(_numbers | st.booleans()),
    "timestamp": _mostly(st.integers(0, 2**63 - 1) | st.integers(0, 50).map(str)),
}
_odd_fields = {
    "step": _mostly(st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5).map(float)),
    "model_id": _odd,
    "dataset_name": st.sampled_from(["d", "", None]),
    "dataset_digest": st.sampled_from(["d", "", None]),
    "datasetName": st.just("d"),
    "more": _anything,
}
_metrics = st.fixed_dictionaries(_good_fields, optional=_odd_fields | {"run_id": _mostly(st.just("x"))})
_pairs = st.fixed_dictionaries(
    {"key": _mostly(st.sampled_from("abcdef"))},
    optional={"value": _mostly(st.text(max_size=5)), "more": _anything},
)
_run_ids = _mostly(st.sampled_from(["@active@", "@active@", "@active@", "@deleted@", "@unknown@"]))
_batches = st.fixed_dictionaries(
    {"run_id": _run_ids},
    optional={
        "metrics": _mostly(st.lists(_metrics, max_size=5)),
        "params": _mostly(st.lists(_pairs, max_size=3)),
        "tags": _mostly(st.lists(_pairs, max_size=3)),
        "more": _anything,
    },
)
_singles = st.fixed_dictionaries(
    _good_fields | {"run_id": _run_ids}, optional=_odd_fields | {"run_uuid": _run_ids, "runUuid": _run_ids}
)


@st.composite
def writes(draw: st.DrawFn) -> Request:
    make, bodies = draw(st.sampled_from([(log_batch, _batches), (log_metric, _singles)]))
    body: dict[str, Any] = {name: value for name, value in draw(bodies).items() if value is not ...}
    names = draw(st.permutations(list(body)))
    text = dump({name: _without_gaps(body[name]) for name in names})
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 0, 1, 2]))):  # sometimes a slip of the pen
        at = draw(st.integers(0, len(text)))
        slip = draw(st.sampled_from(["", '"', ",", "}", "]", "0", "e", "-", "\\", "\x00", "{", "null", " "]))
        text = text[:at] + slip + text[at + draw(st.integers(0, 2)) :]
    if draw(st.integers(0, 19)) == 0:
        text = json.dumps(text)
    return make(Raw(text))


def _without_gaps(value: Any) -> Any:
    if isinstance(value, Raw):
        return value
    if isinstance(value, dict):
        return {name: _without_gaps(item) for name, item in value.items() if item is not ...}
    if isinstance(value, list):
        return [_without_gaps(item) for item in value if item is not ...]
    return None if value is ... else value


_parameters = st.sampled_from(
    ["1", "3", "-1", "0", "2500", "2501", "25001", "x", "", "1.0", "1e1", " 2", "2147483648"]
)
_tokens = st.sampled_from(["", "abc", "eyJvZmZzZXQiOiA3fQ==", "eyJvZmZzZXQiOiAiNyJ9", "e30=", "W10=", "%"])
_known_runs = st.sampled_from(["@history@", "@history2@", "@empty@", "@deleted@", "@unknown@", "", "a b"])
_keys = st.sampled_from(["k", "k", "nan", "inf", "extreme", "none", "", "../k"])
_run_lists = st.lists(_known_runs, max_size=4)


def _queries(make: Any, required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Request]:
    fields = st.fixed_dictionaries({}, optional=required | optional) | st.fixed_dictionaries(
        required, optional=optional
    )
    return fields.map(lambda query: make(**query))


_limits = {"max_results": _parameters}
_steps = {"start_step": _parameters, "end_step": _parameters}
READ = (
    _queries(history, {"run_id": _known_runs, "metric_key": _keys}, _limits | {"page_token": _tokens})
    | _queries(bulk, {"run_id": _run_lists, "metric_key": _keys}, _limits)
    | _queries(interval, {"run_ids": _run_lists, "metric_key": _keys}, _limits | _steps)
)
