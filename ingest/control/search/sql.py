"""Searches of runs as SQL over MLflow's tables, for SQLite and PostgreSQL.

Rows, order and ties are those of ``SqlAlchemyStore._search_runs``: comparing and sorting are left to the same database
with the same expressions, so that collations, NULLs and types behave as they do there. What differs is the way: only
the ids of the runs are looked for, and where to begin is chosen (``finder``), not left to the database's guess.
Statements have ``?`` for their parameters on both databases.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from runstream.ingest.control.search.grammar import Comparison, Kind, Ordering
from runstream.ingest.control.search.requests import RunSearch

Dialect = Literal["sqlite", "postgresql"]

# Of texts, only this much is in an index of ours: PostgreSQL has no room for long ones in an index.
INDEXED_CHARACTERS: Final = 64
RUN_NAME: Final = "mlflow.runName"
DATASET_CONTEXT: Final = "mlflow.data.context"

# SQLite's runs whose values are not in the tables beside, and those tables: see ``settled``.
UNSETTLED: Final = "runstream_unsettled"
UNFILLED: Final = "runstream_unfilled"
SETTLED: Final = {
    Kind.METRIC: "runstream_values",
    Kind.PARAM: "runstream_params",
    Kind.TAG: "runstream_tags",
}
TABLES: Final = {Kind.METRIC: "latest_metrics", Kind.PARAM: "params", Kind.TAG: "tags"}
_COLUMNS: Final = {"run_id": "run_uuid", "run_name": "name"}
_RANGES: Final = frozenset({"=", "<", "<=", ">", ">="})


@dataclass(frozen=True, slots=True)
class Sql:
    """A piece of SQL with its parameters."""

    text: str
    parameters: tuple[Any, ...] = ()

    def __add__(self, other: Sql | str) -> Sql:
        if isinstance(other, str):
            return Sql(self.text + other, self.parameters)
        return Sql(self.text + other.text, self.parameters + other.parameters)


def joined(pieces: Iterable[Sql], between: str) -> Sql:
    """The pieces with ``between`` between them."""
    found = list(pieces)
    return Sql(
        between.join(piece.text for piece in found),
        tuple(value for piece in found for value in piece.parameters),
    )


def among(values: Sequence[Any]) -> Sql:
    """``(?, ?)`` for so many values."""
    return Sql(f"({', '.join('?' * len(values))})", tuple(values))


def compared(dialect: Dialect, column: str, comparator: str, value: Any) -> Sql:
    """``column comparator value``, as SQLAlchemy writes it for MLflow (``SearchUtils.get_sql_comparison_func``)."""
    if comparator in ("IN", "NOT IN"):
        return Sql(f"{column} {comparator} ") + among(value)
    if comparator == "ILIKE" and dialect == "sqlite":
        return Sql(f"lower({column}) LIKE lower(?)", (value,))
    return Sql(f"{column} {comparator} ?", (value,))


@dataclass(frozen=True, slots=True)
class _Term:
    """How to sort by one thing: what has to be joined for it, and what stands in ORDER BY."""

    join: Sql | None
    order: str


class RunSql:
    """The statements for one search. ``dialect`` is the database's."""

    def __init__(self, dialect: Dialect, search: RunSearch) -> None:
        self._dialect = dialect
        self._postgres = dialect == "postgresql"
        self._true, self._false = ("true", "false") if self._postgres else ("1", "0")
        self._search = search

    # --- what has to hold

    def _value_holds(self, kind: Kind, alias: str, comparator: str, value: Any) -> Sql:
        holds = compared(self._dialect, f"{alias}.value", comparator, value)
        if kind is not Kind.METRIC:
            return holds
        # NaN is stored as 0 with a mark; nothing but != is true of it.
        if comparator == "!=":
            return Sql("(") + holds + f" OR {alias}.is_nan = {self._true})"
        return holds + f" AND {alias}.is_nan = {self._false}"

    def condition(self, comparison: Comparison, run: str) -> Sql:
        """``comparison`` of the run whose id is the expression ``run`` and whose row is ``r``."""
        kind, key, comparator, value = (
            comparison.kind,
            comparison.key,
            comparison.comparator,
            comparison.value,
        )
        if kind is Kind.ATTRIBUTE:
            if key == "run_name":
                kind, key = Kind.TAG, RUN_NAME
            else:
                return compared(self._dialect, f"r.{_COLUMNS.get(key, key)}", comparator, value)
        if kind is Kind.DATASET:
            return self._dataset(key, comparator, value, run)
        head = Sql(f"EXISTS (SELECT 1 FROM {TABLES[kind]} f WHERE f.run_uuid = {run} AND f.key = ?", (key,))
        if comparator == "IS NULL":
            return Sql("NOT ") + head + ")"
        if comparator == "IS NOT NULL":
            return head + ")"
        return head + " AND " + self._value_holds(kind, "f", comparator, value) + ")"

    def _dataset(self, key: str, comparator: str, value: Any, run: str) -> Sql:
        head = (
            f"{run} IN (SELECT i.destination_id FROM datasets d JOIN inputs i ON i.source_type = 'DATASET'"
            " AND i.source_id = d.dataset_uuid AND i.destination_type = 'RUN'"
        )
        if key == "context":
            join = Sql(
                " JOIN input_tags t ON t.input_uuid = i.input_uuid AND t.name = ? AND ", (DATASET_CONTEXT,)
            )
            return Sql(head) + join + compared(self._dialect, "t.value", comparator, value) + ")"
        return Sql(f"{head} WHERE ") + compared(self._dialect, f"d.{key}", comparator, value) + ")"

    def _scope(self) -> Sql:
        return (
            Sql("r.experiment_id IN ")
            + among(self._search.experiment_ids)
            + " AND r.lifecycle_stage IN "
            + among(self._search.stages)
        )

    def _conditions(self, run: str, extra: Sequence[Sql]) -> Sql:
        # On SQLite each is tested as soon as its run is known: what is cheap to say no, first.
        found = [self.condition(comparison, run) for comparison in self._search.comparisons]
        return joined([*extra, *found, self._scope()], " AND ")

    # --- the order

    def _term(self, number: int, ordering: Ordering) -> _Term:
        direction = "" if ordering.ascending else " DESC"
        if ordering.kind is Kind.ATTRIBUTE:
            column = f"r.{_COLUMNS.get(ordering.key, ordering.key)}"
            return _Term(None, f"CASE WHEN {column} IS NULL THEN 1 ELSE 0 END, {column}{direction}")
        alias = f"o{number}"
        table = TABLES[ordering.kind]
        if self._postgres:
            what = "value, is_nan" if ordering.kind is Kind.METRIC else "value"
            join = Sql(
                f" LEFT JOIN LATERAL (SELECT {what} FROM {table} WHERE key = ? AND run_uuid = r.run_uuid OFFSET 0)"
                f" {alias} ON true",
                (ordering.key,),
            )
        else:
            join = Sql(
                f" LEFT JOIN {table} {alias} ON {alias}.key = ? AND {alias}.run_uuid = r.run_uuid",
                (ordering.key,),
            )
        nan = f" WHEN {alias}.is_nan = {self._true} THEN 1" if ordering.kind is Kind.METRIC else ""
        none = 2 if ordering.kind is Kind.METRIC else 1
        return _Term(
            join, f"CASE{nan} WHEN {alias}.value IS NULL THEN {none} ELSE 0 END, {alias}.value{direction}"
        )

    def _terms(self, orderings: Sequence[Ordering], first: int) -> list[_Term]:
        terms = [self._term(first + at, ordering) for at, ordering in enumerate(orderings)]
        if (Kind.ATTRIBUTE, "start_time") not in {(by.kind, by.key) for by in self._search.orderings}:
            terms.append(_Term(None, "r.start_time DESC"))
        terms.append(_Term(None, "r.run_uuid"))
        return terms

    # --- whole statements

    def everything(
        self, limit: int, offset: int, *, orderings: Sequence[Ordering], without: str | None
    ) -> Sql:
        """The page's run ids, by looking at every run of the experiments. ``without`` is a metric that they lack."""
        return self._page(None, orderings, self._lacking(without, "r.run_uuid"), limit, offset)

    def from_candidates(
        self, candidates: Sql, limit: int, offset: int, *, orderings: Sequence[Ordering], without: str | None
    ) -> Sql:
        """The same, by looking at the runs that ``candidates`` selects (``run_uuid``, each once) only."""
        return self._page(candidates, orderings, self._lacking(without, "c.run_uuid"), limit, offset)

    def _lacking(self, metric: str | None, run: str) -> list[Sql]:
        if metric is None:
            return []
        return [
            Sql(
                f"NOT EXISTS (SELECT 1 FROM latest_metrics l WHERE l.run_uuid = {run} AND l.key = ?)",
                (metric,),
            )
        ]

    def _page(
        self, candidates: Sql | None, orderings: Sequence[Ordering], extra: list[Sql], limit: int, offset: int
    ) -> Sql:
        terms = self._terms(orderings, 1)
        joins = joined((term.join for term in terms if term.join is not None), "")
        end = Sql(f" ORDER BY {', '.join(term.order for term in terms)} LIMIT ? OFFSET ?", (limit, offset))
        if candidates is None:
            return (
                Sql("SELECT r.run_uuid FROM runs r")
                + joins
                + " WHERE "
                + self._conditions("r.run_uuid", extra)
                + end
            )
        if self._postgres:
            # OFFSET 0 keeps PostgreSQL from taking these apart: run by run, by the primary keys.
            runs = (
                Sql(" CROSS JOIN LATERAL (SELECT r.* FROM runs r WHERE r.run_uuid = c.run_uuid AND ")
                + self._conditions("c.run_uuid", extra)
                + " OFFSET 0) r"
            )
            return Sql("SELECT r.run_uuid FROM (") + candidates + " OFFSET 0) c" + runs + joins + end
        return (
            Sql("SELECT r.run_uuid FROM (")
            + candidates
            + ") c CROSS JOIN runs r ON r.run_uuid = c.run_uuid"
            + joins
            + " WHERE "
            + self._conditions("c.run_uuid", extra)
            + end
        )

    def walk(self, limit: int, *, nan: bool, beyond: float | None = None) -> Sql:
        """The run ids that have the first ordering's metric, in its order: by the index, until there are so many.

        ``nan``: those whose value is NaN. ``beyond``: only those that come before this value. On SQLite without the
        unsettled ones.
        """
        by = self._search.orderings[0]
        direction = "" if by.ascending else " DESC"
        terms = self._terms(self._search.orderings[1:], 2)
        joins = joined((term.join for term in terms if term.join is not None), "")
        order = ", ".join([f"o.value{direction}", *(term.order for term in terms)])
        found = Sql(f"key = ? AND is_nan = {self._true if nan else self._false}", (by.key,))
        if beyond is not None:
            found += Sql(f" AND value {'<' if by.ascending else '>'} ?", (beyond,))
        end = Sql(f" ORDER BY {order} LIMIT ?", (limit,))
        if self._postgres:
            return (
                Sql("SELECT o.run_uuid FROM (SELECT run_uuid, value FROM latest_metrics WHERE ")
                + found
                + f" ORDER BY value{direction} OFFSET 0) o"
                + " CROSS JOIN LATERAL (SELECT r.* FROM runs r WHERE r.run_uuid = o.run_uuid AND "
                + self._conditions("o.run_uuid", [])
                + " OFFSET 0) r"
                + joins
                + end
            )
        # What stands beside the tables may be of yesterday. Asked of ``r``, that is looked up last, for few are left.
        is_true = Sql(
            f"NOT EXISTS (SELECT 1 FROM {UNSETTLED} u WHERE u.run_uuid = r.run_uuid) AND EXISTS (SELECT 1 FROM"
            " latest_metrics m WHERE m.key = o.key AND m.run_uuid = r.run_uuid AND m.is_nan = o.is_nan"
            " AND m.value = o.value)"
        )
        return (
            Sql(f"SELECT o.run_uuid FROM (SELECT * FROM {SETTLED[Kind.METRIC]} WHERE ")
            + found
            + ") o CROSS JOIN runs r ON r.run_uuid = o.run_uuid"
            + joins
            + " WHERE "
            + self._conditions("o.run_uuid", [])
            + " AND "
            + is_true
            + end
        )

    def value_at(self, position: int) -> Sql:
        """The value of the first ordering's metric at a position of its order, over all runs there are."""
        by = self._search.orderings[0]
        return Sql(
            f"SELECT value FROM {self._source(Kind.METRIC)} WHERE key = ? AND is_nan = {self._false}"
            f" ORDER BY value{'' if by.ascending else ' DESC'} LIMIT 1 OFFSET ?",
            (by.key, position),
        )

    def _source(self, kind: Kind) -> str:
        return TABLES[kind] if self._postgres else SETTLED[kind]

    def scope(self) -> Sql:
        """All runs of the experiments, as candidates."""
        return Sql("SELECT r.run_uuid FROM runs r WHERE ") + self._scope()

    def candidates(self, comparison: Comparison) -> Sql | None:
        """The runs of which ``comparison`` may hold, by an index; ``None`` if there is no index for it. On SQLite
        without the unsettled ones."""
        kind, key, comparator, value = (
            comparison.kind,
            comparison.key,
            comparison.comparator,
            comparison.value,
        )
        if kind is Kind.ATTRIBUTE:
            if key == "run_name":
                kind, key = Kind.TAG, RUN_NAME
            elif key == "run_id" and comparator in ("=", "IN"):
                ids = value if isinstance(value, tuple) else (value,)
                return Sql("SELECT run_uuid FROM runs WHERE run_uuid IN ") + among(ids)
            else:
                return None
        if kind is Kind.METRIC and comparator in _RANGES:
            return Sql(
                f"SELECT run_uuid FROM {self._source(kind)} WHERE key = ? AND is_nan = {self._false}"
                f" AND value {comparator} ?",
                (key, value),
            )
        if kind in (Kind.PARAM, Kind.TAG) and comparator == "=" and isinstance(value, str):
            begin = value[:INDEXED_CHARACTERS]
            if not self._postgres:
                return Sql(f"SELECT run_uuid FROM {SETTLED[kind]} WHERE key = ? AND value = ?", (key, begin))
            found = Sql(
                f"SELECT run_uuid FROM {TABLES[kind]} WHERE key = ? AND substr(value, 1, {INDEXED_CHARACTERS}) = ?",
                (key, begin),
            )
            return found if len(value) < INDEXED_CHARACTERS else found + Sql(" AND value = ?", (value,))
        return None

    @staticmethod
    def count(candidates: Sql, limit: int) -> Sql:
        """How many there are, counted up to ``limit``."""
        return Sql("SELECT count(*) FROM (") + candidates + Sql(" LIMIT ?) counted", (limit,))

    @staticmethod
    def unsettled() -> Sql:
        """SQLite's runs that have to be looked at themselves."""
        return Sql(f"SELECT run_uuid FROM {UNSETTLED}")

    @staticmethod
    def is_unfilled() -> Sql:
        """A row, if SQLite's tables beside do not hold yet what was there before them."""
        return Sql(f"SELECT 1 FROM {UNFILLED} LIMIT 1")

    @staticmethod
    def these(run_ids: Sequence[str]) -> Sql:
        """Known runs, as candidates. SQLite's."""
        return Sql("SELECT value AS run_uuid FROM json_each(?)", (json.dumps(run_ids),))
