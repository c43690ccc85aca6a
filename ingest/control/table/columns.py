"""The values of columns, of the runs of one page, read from MLflow's tables.

Few runs are read by run, many by key. On SQLite the tables beside (``search.settled``) hold a key's values next to each
other, where MLflow's have them all over the file; as MLflow never takes a single param or metric away from a run, the
only entry of a run that is settled is the present one. All others are read from MLflow's tables.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from runstream.ingest.control.search.finder import Database
from runstream.ingest.control.search.grammar import Kind
from runstream.ingest.control.search.sql import INDEXED_CHARACTERS, SETTLED, TABLES, UNSETTLED, Sql
from runstream.ingest.control.table.grammar import ATTRIBUTES, Column

# So many runs are read by run: each has all of its keys looked at.
_FEW: Final = 2_000
_TOGETHER: Final = 500
NAN: Final = float("nan")

Values = list[Any]


class ColumnReader:
    """Reads columns of ``run_ids``, in their order; ``settled``: SQLite's tables beside may be used."""

    def __init__(self, database: Database, run_ids: Sequence[str], *, settled: bool) -> None:
        self._database = database
        self._run_ids = run_ids
        self._settled = settled and database.dialect == "sqlite"
        self._place = {run_id: at for at, run_id in enumerate(run_ids)}
        self._unsettled: frozenset[str] | None = None
        self._by_run: dict[Kind, dict[str, Values]] = {}

    def expanded(self, columns: Iterable[Column]) -> list[Column]:
        """With the keys that these runs have in the place of globs; each column once."""
        found: dict[str, Column] = {}
        for column in columns:
            if not column.is_glob:
                found.setdefault(column.name, column)
                continue
            matches = re.compile(fnmatch.translate(column.key)).match
            for key in filter(matches, self._keys(column.kind)):
                one = column.of(key)
                found.setdefault(one.name, one)
        return list(found.values())

    def attributes(self, keys: Sequence[str]) -> dict[str, Values]:
        """Columns of ``ATTRIBUTES``."""
        columns = ", ".join({"run_id": "run_uuid", "run_name": "name"}.get(key, key) for key in keys)
        found: dict[str, Values] = {key: [None] * len(self._run_ids) for key in keys}
        lists = list(found.values())
        for row in self._rows(f"SELECT run_uuid, {columns} FROM runs WHERE run_uuid IN ", (), self._run_ids):
            at = self._place[row[0]]
            for values, value in zip(lists, row[1:], strict=True):
                values[at] = value
        if "experiment_id" in found:
            found["experiment_id"] = [None if one is None else str(one) for one in found["experiment_id"]]
        return found

    def values(self, kind: Kind, key: str) -> Values:
        """The values of one metric (newest, by MLflow's order), param or tag; ``None`` where a run has none."""
        if kind in self._by_run or len(self._run_ids) <= _FEW:
            return self._all(kind).get(key) or [None] * len(self._run_ids)
        values: Values = [None] * len(self._run_ids)
        select = f"SELECT run_uuid, {self._shown(kind)} FROM {TABLES[kind]}"
        rows: Iterable[tuple[Any, ...]]
        if self._settled and kind is not Kind.TAG:
            unsure = self._from_beside(kind, key, values)
            rows = self._rows(f"{select} WHERE key = ? AND run_uuid IN ", (key,), unsure)
        else:
            rows = self._database.rows(Sql(f"{select} WHERE key = ?", (key,)))
        place = self._place.get
        for run_id, value in rows:
            if (at := place(run_id)) is not None:
                values[at] = value
        return _numbers(values) if kind is Kind.METRIC else values

    def _from_beside(self, kind: Kind, key: str, values: Values) -> list[str]:
        """Fill in what the table beside knows for sure; the runs of which it does not."""
        unsure = set(self._unsettled_runs())
        place = self._place.get
        for run_id, value in self._database.rows(
            Sql(f"SELECT run_uuid, {self._shown(kind)} FROM {SETTLED[kind]} WHERE key = ?", (key,))
        ):
            if (at := place(run_id)) is None:
                continue
            if values[at] is not None or (kind is Kind.PARAM and len(value) >= INDEXED_CHARACTERS):
                unsure.add(run_id)
            values[at] = value
        for run_id in unsure:
            values[self._place[run_id]] = None
        return list(unsure)

    def _unsettled_runs(self) -> frozenset[str]:
        if self._unsettled is None:
            rows = self._database.rows(Sql(f"SELECT run_uuid FROM {UNSETTLED}"))
            self._unsettled = frozenset(row[0] for row in rows if row[0] in self._place)
        return self._unsettled

    def _all(self, kind: Kind) -> dict[str, Values]:
        """Every key of few runs."""
        found = self._by_run.get(kind)
        if found is None:
            found = self._by_run[kind] = {}
            sql = f"SELECT run_uuid, key, {self._shown(kind)} FROM {TABLES[kind]} WHERE run_uuid IN "
            for run_id, key, value in self._rows(sql, (), self._run_ids):
                values = found.get(key)
                if values is None:
                    values = found[key] = [None] * len(self._run_ids)
                values[self._place[run_id]] = value
            if kind is Kind.METRIC:
                found = self._by_run[kind] = {key: _numbers(values) for key, values in found.items()}
        return found

    def _keys(self, kind: Kind) -> list[str]:
        """The keys that these runs have, in order."""
        if kind is Kind.ATTRIBUTE:
            return list(ATTRIBUTES)
        if len(self._run_ids) <= _FEW:
            return sorted(self._all(kind))
        # From one key to the next in the index; those that other runs alone have are left out.
        table, last = TABLES[kind], ""
        found: list[str] = []
        while True:
            [(key,)] = self._database.rows(Sql(f"SELECT min(key) FROM {table} WHERE key > ?", (last,)))
            if key is None:
                return found
            last = key
            if self._some_has(table, key):
                found.append(key)

    def _some_has(self, table: str, key: str) -> bool:
        sql = f"SELECT run_uuid FROM {table} WHERE key = ? AND run_uuid IN "
        for at in range(0, len(self._run_ids), _TOGETHER):
            these = self._run_ids[at : at + _TOGETHER]
            if self._database.rows(Sql(sql, (key,)) + self._these(these) + Sql(" LIMIT 1")):
                return True
        return False

    def _rows(
        self, sql: str, parameters: tuple[Any, ...], run_ids: Sequence[str]
    ) -> Iterable[tuple[Any, ...]]:
        """The rows of a statement that ends with ``IN``, of so many runs at a time."""
        for at in range(0, len(run_ids), _TOGETHER):
            yield from self._database.rows(Sql(sql, parameters) + self._these(run_ids[at : at + _TOGETHER]))

    def _shown(self, kind: Kind) -> str:
        if kind is not Kind.METRIC:
            return "value"
        nan = "'NaN'" if self._database.dialect == "sqlite" else "'NaN'::float8"
        return f"CASE WHEN is_nan THEN {nan} ELSE value END"

    def _these(self, run_ids: Sequence[str]) -> Sql:
        if self._database.dialect == "sqlite":
            return Sql("(SELECT value FROM json_each(?))", (json.dumps(run_ids),))
        return Sql("(SELECT json_array_elements_text(?::json))", (json.dumps(run_ids),))


def _numbers(values: Values) -> Values:
    """SQLite has no NaN: it comes as a text."""
    return [NAN if value == "NaN" else value for value in values]
