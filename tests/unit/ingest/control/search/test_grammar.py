"""Whatever our grammar of searches reads, MLflow's own parser reads in the same way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.utils.search_utils import SearchExperimentsUtils, SearchUtils
from sqlparse import keywords

from runstream.ingest.control.search import grammar
from runstream.ingest.control.search.grammar import Comparison, Kind, NotPlainError, Ordering

ENTITIES = [
    "metrics", "metric", "params", "parameter", "param", "parameters", "tags", "tag", "attributes", "attr", "run",
    "attribute", "dataset", "datasets", "Metrics", "`params`",
]  # fmt: skip
KEYS = [
    "loss", "val_loss", "val.loss", "mlflow.runName", "a1", "order", "max", "name", "digest", "context",
    "key", "value", "type", "date", "timestamp", "user", "in", "and", "null", "like", "Created", "created",
    "status", "run_id", "run_name", "start_time", "end_time", "artifact_uri", "user_id", "creation_time",
    "last_update_time", "experiment_id", "`val/loss`", '"val/loss"', "`run name`", "`a b`", "`a.b`", "'a'",
    "_x", "1x", "x-y", "x/y", "`a'b`", "double", "float", "int", "text", "count", "sum", "table", "select",
    "end", "case", "begin", "`ä`", "ä", "e1", "E5", "group", "index", "x_1.y_2", "x.1", "desc", "asc",
    "not", "is", "or", "by", "limit", "from", "set", "array",
]  # fmt: skip
# Words that sqlparse knows.
KNOWN = sorted(
    {word.lower() for name, words in vars(keywords).items() if name.startswith("KEYWORDS") for word in words}
)
COMPARATORS = [
    "=", "!=", "<", "<=", ">", ">=", "LIKE", "ILIKE", "like", "ilike", "Like", "IN", "NOT IN", "in", "IS NULL",
    "IS NOT NULL", "is null", "==", "<>", "~", "NOT LIKE",
]  # fmt: skip
VALUES = [
    "1", "0.1", "-1", "-0.5", "1e5", "1e-5", "1.5e-3", "1E5", "1e+5", "1.", ".5", "+1",
    "9223372036854775807", "9223372036854775808", "1_0", "0x1", "nan", "inf", "'a'", '"a"', "'a b'", "''",
    '""', "'it''s'", "'%a_'", "a", "`a`", "('a')", "('a', 'b')", "('a',)", "('a' 'b')", "()", "(1)",
    '("a", "b")', "('a','b',)", "'ä'", "'--'", "'a;b'", "';'", "'#'", "'/* x */'", "'a\\'", "'a\nb'",
    '"a\'b"', '\'a"b\'', "'a`b'", "null", "true", "'AND'", "' and '", '"a.b"', "", "'$$'", "'{}'", "':x'",
    "'?'", "'@'", "'a' 'b'", "1 2", "('a\nb')", "('a''b')", "12345678901234567890.5",
]  # fmt: skip
SPACES = ["", " ", "  ", "\n", "\t", "\u00a0"]
JOINERS = [" AND ", " and ", " And ", "\nAND\n", " OR ", " ", "AND", " AND", ", ", "; ", "  AND  "]


@st.composite
def clauses(draw: st.DrawFn) -> str:
    entity = draw(st.sampled_from([f"{name}." for name in ENTITIES] + [""] * 4))
    space = st.sampled_from(SPACES[1:3] * 8 + SPACES)
    key = draw(st.sampled_from(KEYS) | st.sampled_from(KNOWN) | st.from_regex(r"\A[a-zA-Z0-9_.\-/ ]{1,6}\Z"))
    value = draw(st.sampled_from(VALUES) | st.from_regex(r"\A'[ -~äß]{0,8}'\Z") | st.floats().map(repr))
    return entity + key + draw(space) + draw(st.sampled_from(COMPARATORS)) + draw(space) + value


FILTERS = st.builds(
    lambda first, rest, end: first + "".join(joiner + clause for joiner, clause in rest) + end,
    clauses(),
    st.lists(st.tuples(st.sampled_from(JOINERS[:1] * 8 + JOINERS), clauses()), max_size=2),
    st.sampled_from(["", "", "", " ", ";", " AND", "\n"]),
)


def theirs(parse: Any, text: str) -> list[Comparison]:
    """MLflow's reading, in our words."""
    return [
        Comparison(
            Kind(found["type"]),
            SearchUtils.translate_key_alias(found["key"]),
            found["comparator"].upper(),
            float(found["value"]) if found["type"] == "metric" else found["value"],
        )
        for found in parse(text)
    ]


def is_known(comparison: Comparison) -> bool:
    """MLflow's check of comparators, which comes after the parsing."""
    kind, key, comparator = comparison.kind.value, comparison.key, comparison.comparator
    return bool(
        SearchUtils.is_string_attribute(kind, key, comparator)
        or SearchUtils.is_numeric_attribute(kind, key, comparator)
        or SearchUtils.is_metric(kind, comparator)
        or SearchUtils.is_param(kind, comparator)
        or SearchUtils.is_tag(kind, comparator)
        or SearchUtils.is_dataset(kind, comparator)
    )


@settings(max_examples=400)
@given(FILTERS)
@example("metrics.loss < 0.1 and params.lr = '0.1' AND tags.`mlflow.user` ILIKE \"%a\"")
@example("run_id IN ('a', 'b') AND attributes.status != 'FAILED' and created > 5")
@example("params.x IS NULL AND dataset.name NOT IN ('a')")
def test_filters_of_runs(text: str) -> None:
    try:
        ours = list(grammar.parse_run_filter(text))
    except NotPlainError:
        return
    assert ours == theirs(SearchUtils.parse_search_filter, text)
    assert all(map(is_known, ours))


@settings(max_examples=400)
@given(FILTERS)
@example("tags.`run name` = 'a'")
def test_filters_of_experiments(text: str) -> None:
    try:
        ours = list(grammar.parse_experiment_filter(text))
    except NotPlainError:
        return
    assert ours == theirs(SearchExperimentsUtils.parse_search_filter, text)


ORDERS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from([f"{name}." for name in ENTITIES] + [""] * 6),
        st.sampled_from(KEYS) | st.sampled_from(KNOWN) | st.from_regex(r"\A[a-zA-Z0-9_.\-/ ]{1,6}\Z"),
        st.sampled_from(
            ["", " asc", " ASC", " desc", " DESC", "  desc", " Desc", " up", "\tasc", "\nasc", ",", " asc "]
        ),
    ),
)


@settings(max_examples=400)
@given(ORDERS)
@example("metrics.`val loss` desc")
@example("attributes.start_time ASC")
@example("attributes.`run name`")
def test_orders(text: str) -> None:
    try:
        ours = grammar.parse_run_order(text)
    except NotPlainError:
        pass
    else:
        kind, key, ascending = SearchUtils.parse_order_by_for_search_runs(text)
        assert ours == Ordering(Kind(kind), SearchUtils.translate_key_alias(key), ascending)
    try:
        ours = grammar.parse_experiment_order(text)
    except NotPlainError:
        return
    kind, key, ascending = SearchExperimentsUtils.parse_order_by_for_search_experiments(text)
    assert ours == Ordering(Kind(kind), key, ascending)


PLAIN = [
    "metrics.loss < 0.1",
    "metrics.`val/loss` >= -1e-5 AND params.lr = '0.1'",
    'params."a b" != "x" and tags.mlflow.parentRunId = \'abc\'',
    "attributes.run_name LIKE '%a%' AND status = 'FINISHED'",
    "run_id IN ('a','b')",
    "run_id NOT IN ('a', 'b')",
    "start_time > 1700000000000 AND attributes.end_time<=5",
    "tags.team IS NOT NULL AND params.x IS NULL",
    "dataset.name = 'a' AND datasets.context IN ('train')",
    " metrics.acc=1 ",
]


@pytest.mark.parametrize("text", PLAIN)
def test_what_people_write_is_plain(text: str) -> None:
    assert list(grammar.parse_run_filter(text)) == theirs(SearchUtils.parse_search_filter, text)


@pytest.mark.parametrize(
    "text",
    [
        "metrics.loss",
        "metrics.loss DESC",
        "params.`a b` asc",
        "start_time desc",
        "attributes.run_id",
        "Created",
    ],
)
def test_orders_that_people_write_are_plain(text: str) -> None:
    if text == "Created":
        with pytest.raises(NotPlainError):  # what begins with a capital is left to MLflow
            grammar.parse_run_order(text)
    else:
        grammar.parse_run_order(text)


@pytest.mark.parametrize("text", ["name = 'a'", "tags.x ILIKE '%b'", "creation_time > 5 AND name LIKE 'a%'"])
def test_filters_of_experiments_that_people_write_are_plain(text: str) -> None:
    assert list(grammar.parse_experiment_filter(text)) == theirs(
        SearchExperimentsUtils.parse_search_filter, text
    )


@pytest.mark.parametrize(
    "text", ["x", "metrics.loss", "metrics.loss < 'a'", "params.a > 'b'", "status > 'a'", "a = 1"]
)
def test_wrong_filters_are_left_to_mlflow(text: str) -> None:
    with pytest.raises(NotPlainError):
        grammar.parse_run_filter(text)
    with pytest.raises(MlflowException):
        all(map(is_known, theirs(SearchUtils.parse_search_filter, text)))
