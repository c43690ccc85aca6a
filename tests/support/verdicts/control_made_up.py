"""Requests on experiments, runs and models that nobody has thought of."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

from support.verdicts.control_cases import GOOD, SEE_EXPERIMENT, SEE_RUN
from support.verdicts.requests import Raw, Request, dump, post
from support.verdicts.values import KEYS, ODD_VALUES

_values = (
    st.sampled_from(list(ODD_VALUES.values()))
    | st.sampled_from(list(KEYS.values()))
    | st.text(max_size=6)
    | st.integers(-(2**64), 2**64)
)
# Few keys and values, so that requests of a case meet.
_keys = st.sampled_from(["a", "b", "mlflow.runName", "p0", "x/y", "naïve é"])
_plain = st.sampled_from(["", "v", "w", "1", "é😀"])
_ids = st.sampled_from(["@active@"] * 6 + ["@deleted@", "@unknown@"])


@st.composite
def _request(draw: st.DrawFn) -> Request:
    path = draw(st.sampled_from(sorted(GOOD)))
    body: dict[str, Any] = copy.deepcopy(GOOD[path])
    for name, strategy in (("run_id", _ids), ("key", _keys), ("value", _plain), ("run_name", _plain)):
        if name in body:
            body[name] = draw(strategy)
    for name in ("params", "tags"):
        if name in body:
            pair = st.fixed_dictionaries({"key": _keys, "value": _plain})
            body[name] = draw(st.lists(pair, max_size=3))
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 2]))):
        nested = [item for value in body.values() if isinstance(value, list) for item in value]
        target = draw(st.sampled_from([body, *(item for item in nested if isinstance(item, dict))]))
        if not target:
            continue
        name, value = draw(st.sampled_from(sorted(target))), draw(_values)
        if value is ...:
            del target[name]
        else:
            target[name] = value
    text = dump(body)
    if draw(st.integers(0, 15)) == 0:  # a slip of the pen
        at = draw(st.integers(0, len(text)))
        slip = draw(st.sampled_from(["", '"', ",", "}", "0", "\\", "\x00", "null"]))
        text = text[:at] + slip + text[at + draw(st.integers(0, 2)) :]
    return post(path, Raw(text))


def requests() -> st.SearchStrategy[list[Request]]:
    """A few changes of one case, and what is to be seen then."""
    return st.lists(_request(), min_size=1, max_size=4).map(lambda sent: [*sent, SEE_RUN, SEE_EXPERIMENT])
