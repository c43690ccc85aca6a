"""Runs as a table: a row for each run, a column for each param, tag, attribute and number about a metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import pandas as pd
import pyarrow as pa

from runstream.query.client.frames import to_polars
from runstream.schemas.wire import NEXT_PAGE

TableAs = Literal["pandas", "polars", "arrow"]
View = Literal["ACTIVE_ONLY", "DELETED_ONLY", "ALL"]
USUAL_COLUMNS: Final = ("attributes.*", "params.*", "metrics.*", "tags.*")
_PAGE: Final = 100_000
_TIMES: Final = ("start_time", "end_time")


def read_table(
    ask: Callable[[dict[str, Any]], pa.Table],
    experiment_ids: list[str],
    *,
    filter_string: str | None,
    columns: str | Sequence[str] | None,
    order_by: str | Sequence[str] | None,
    max_results: int | None,
    run_view_type: View,
) -> pa.Table:
    """All pages of the answer as one table, ``ask`` sending a body. Raises ``ServerError`` and ``ValueError``."""
    if max_results is not None and max_results < 1:
        raise ValueError(f"max_results is at least 1, not {max_results}")
    body: dict[str, Any] = {
        "experiment_ids": experiment_ids,
        "columns": list(_several(columns) if columns is not None else USUAL_COLUMNS),
        "order_by": _several(order_by) if order_by is not None else [],
        "run_view_type": run_view_type,
    }
    if filter_string:
        body["filter"] = filter_string
    pages: list[pa.Table] = []
    left = max_results
    while True:
        page = ask(body | {"max_results": _PAGE if left is None else min(left, _PAGE)})
        pages.append(page.replace_schema_metadata(None))
        token = (page.schema.metadata or {}).get(NEXT_PAGE)
        left = None if left is None else left - page.num_rows
        if token is None or left == 0:
            break
        body["page_token"] = token.decode()
    return _named(pa.concat_tables(pages, promote_options="default"))


def table_result(table: pa.Table, as_: TableAs) -> Any:
    """A table of runs as what was asked for. Raises ``ValueError`` and ``ImportError``."""
    if as_ == "arrow":
        return table
    if as_ == "polars":
        return to_polars(table)
    if as_ != "pandas":
        raise ValueError(f"as_ is 'pandas', 'polars' or 'arrow', not {as_!r}")
    # A block for all columns of a type costs a copy of the table; one for each does not.
    frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    return frame


def _several(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _named(table: pa.Table) -> pa.Table:
    """Attributes under MLflow's names alone, times as times, each column once."""
    found: dict[str, pa.ChunkedArray] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        plain = name.removeprefix("attributes.")
        if plain in found:
            continue
        if plain in _TIMES:
            column = column.cast(pa.timestamp("ms", tz="UTC"))
        found[plain] = column
    return pa.table(found)
