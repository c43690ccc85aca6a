"""What differs between the two databases' SQL."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import orjson

from runstream.ingest.control.database.reads import Dialect

Type = Literal["text", "bigint"]


@functools.cache
def source(dialect: Dialect, *types: Type) -> str:
    """A table ``(c0, c1, …)`` in a FROM clause, made of one parameter: ``packed`` rows.

    One parameter and one step for any number of rows: neither database's driver is asked once per row.
    """
    if dialect == "sqlite":
        columns = ", ".join(f"json_extract(value, '$[{at}]') AS c{at}" for at in range(len(types)))
        return f"(SELECT {columns} FROM json_each(?)) AS new"
    columns = ", ".join(f"(value->>{at})::{kind} AS c{at}" for at, kind in enumerate(types))
    return f"(SELECT {columns} FROM json_array_elements(?::json) WITH ORDINALITY AS j (value, n) ORDER BY n) AS new"


def packed(rows: Sequence[Sequence[Any]]) -> str:
    """The parameter of ``source``. Texts without NUL."""
    return orjson.dumps(rows).decode()
