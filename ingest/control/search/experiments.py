"""``experiments/search`` (``SqlAlchemyStore._search_experiments``)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from runstream.ingest.control import answers
from runstream.ingest.control.answers import Body, render
from runstream.ingest.control.entities import EXPERIMENT_COLUMNS, Experiment
from runstream.ingest.control.search.finder import Database
from runstream.ingest.control.search.grammar import Comparison, Kind, NotPlainError, Ordering
from runstream.ingest.control.search.requests import ExperimentSearch
from runstream.ingest.control.search.sql import Sql, among, compared, joined
from runstream.schemas.mlflow.page_tokens import create_page_token

_DEFAULT_ORDER: Final = (
    Ordering(Kind.ATTRIBUTE, "creation_time", ascending=False),
    Ordering(Kind.ATTRIBUTE, "experiment_id", ascending=True),
)
_TOGETHER: Final = 500


def body(database: Database, search: ExperimentSearch) -> bytes:
    """The answer to a search of experiments. Raises ``NotPlainError``. Blocks."""
    found = database.rows(_statement(database, search))
    token = None
    if len(found) > search.max_results:
        token = create_page_token(search.offset + search.max_results)
        del found[search.max_results :]
    tags: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for first in range(0, len(found), _TOGETHER):
        ids = [row[0] for row in found[first : first + _TOGETHER]]
        select = Sql("SELECT experiment_id, key, value FROM experiment_tags WHERE experiment_id IN ") + among(
            ids
        )
        for row in database.rows(select):
            tags[row[0]].append(row)
    answer: Body = {}
    if found:
        answer["experiments"] = [_experiment(row, tags.get(row[0], ())) for row in found]
    if token is not None:
        answer["next_page_token"] = token
    return render(answer)


def _statement(database: Database, search: ExperimentSearch) -> Sql:
    conditions = [Sql("e.lifecycle_stage IN ") + among(search.stages)]
    conditions += [_condition(database, comparison) for comparison in search.comparisons]
    orderings = search.orderings or _DEFAULT_ORDER
    order = [f"e.{by.key} {'ASC' if by.ascending else 'DESC'}" for by in orderings]
    if not any(by.key == "experiment_id" for by in orderings):
        order.append("e.experiment_id DESC")
    return (
        Sql(f"SELECT {EXPERIMENT_COLUMNS} FROM experiments e WHERE ")
        + joined(conditions, " AND ")
        + Sql(f" ORDER BY {', '.join(order)} LIMIT ? OFFSET ?", (search.max_results + 1, search.offset))
    )


def _condition(database: Database, comparison: Comparison) -> Sql:
    if comparison.kind is Kind.ATTRIBUTE:
        return compared(database.dialect, f"e.{comparison.key}", comparison.comparator, comparison.value)
    head = Sql(
        "EXISTS (SELECT 1 FROM experiment_tags t WHERE t.experiment_id = e.experiment_id AND t.key = ?",
        (comparison.key,),
    )
    if comparison.comparator == "IS NULL":
        return Sql("NOT ") + head + ")"
    if comparison.comparator == "IS NOT NULL":
        return head + ")"
    value = compared(database.dialect, "t.value", comparison.comparator, comparison.value)
    return head + " AND " + value + ")"


def _experiment(row: Sequence[Any], tags: Sequence[Sequence[Any]]) -> Body:
    found = Experiment(*row)
    if found.artifact_location is None or found.lifecycle_stage is None or found.workspace is None:
        raise NotPlainError
    return answers.experiment(found, [(key, value) for _, key, value in tags])
