"""MLflow's own table ``metrics``, read in columns: SQLite by row numbers, PostgreSQL by pages (and ``COPY``).

The table only grows (MLflow inserts, and deletes with a run), so a *place* in it (a row number, a page) divides what
has been read from what has not. Nothing is written: SQLite's file is opened read-only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Queue
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from runstream.schemas.errors import ConfigError, RunstreamError
from runstream.schemas.names import Names
from runstream.schemas.record import PointColumns

_COLUMNS = "run_uuid, key, step, timestamp, value, is_nan"
_SQLITE_ROWS = 500_000
_BATCH_ROWS = 100_000
# Pages of 8 KiB: about 600,000 points.
_POSTGRES_PAGES = 8_192
_NAN = np.float64("nan")


class SourceError(RunstreamError):
    """The source cannot be read."""


class MetricsTable(Protocol):
    """Blocking; each reading has a connection of its own, so several threads may read. Raises ``SourceError``."""

    def empty(self) -> bool:
        """Whether there is no point in it; also before MLflow has made the table, or there is a file at all."""
        ...

    def count(self) -> int:
        """The number of points in it."""
        ...

    def end(self) -> int:
        """The place after the newest row."""
        ...

    def ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Parts of the table from place to place, of some hundred thousand points."""
        ...

    def read(self, start: int, end: int) -> Iterator[PointColumns]:
        """The points of a part."""
        ...

    def of_run(self, run_id: str) -> Iterator[PointColumns]:
        """The points of one run."""
        ...


def open_table(uri: str) -> MetricsTable:
    """The table in a database, named as MLflow's ``--backend-store-uri`` is. Raises ``ConfigError``."""
    try:
        url = sa.make_url(uri)
    except sa.exc.ArgumentError as error:
        raise ConfigError(f"not a database's address: {uri!r}") from error
    if url.get_backend_name() == "sqlite":
        return _SqliteTable(Path(url.database or ""))
    if url.get_backend_name() == "postgresql":
        return _PostgresTable(url)
    raise ConfigError(f"points can be read from sqlite and postgresql, not from {url.get_backend_name()}")


class _Table:
    def _connect(self) -> Any:
        raise NotImplementedError

    _TABLES = ""

    def empty(self) -> bool:
        if not list(self._rows(self._TABLES)):
            return True
        return not list(self._rows("SELECT 1 FROM metrics LIMIT 1"))

    def count(self) -> int:
        return int(next(self._rows("SELECT count(*) FROM metrics"))[0])

    def _rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        for batch in self._batches(sql):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def _points(self, where: str) -> Iterator[PointColumns]:
        return map(_columns, ahead(lambda: self._batches(f"SELECT {_COLUMNS} FROM metrics WHERE {where}")))

    def _batches(self, sql: str) -> Iterator[Any]:
        import adbc_driver_manager

        try:
            with self._connect() as connection, connection.cursor() as cursor:
                self._prepare(cursor)
                cursor.execute(sql)
                for batch in cursor.fetch_record_batch():
                    if batch.num_rows:
                        yield batch
        except (adbc_driver_manager.Error, pa.ArrowException, OSError) as error:
            raise SourceError(f"the database cannot be read: {' '.join(str(error).split())[:300]}") from error

    def _prepare(self, cursor: Any) -> None:
        pass


class _SqliteTable(_Table):
    _TABLES = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'metrics'"

    def __init__(self, path: Path) -> None:
        self._path = path

    def _connect(self) -> Any:
        from adbc_driver_sqlite import dbapi

        if not self._path.is_file():
            raise SourceError(f"there is no file {self._path}")
        return dbapi.connect(f"{self._path.absolute().as_uri()}?mode=ro", autocommit=True)

    def _prepare(self, cursor: Any) -> None:
        cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(_BATCH_ROWS)})

    def empty(self) -> bool:
        return not self._path.is_file() or super().empty()

    def end(self) -> int:
        return int(next(self._rows("SELECT coalesce(max(rowid), 0) + 1 FROM metrics"))[0])

    def ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        for first in range(start, end, _SQLITE_ROWS):
            yield first, min(first + _SQLITE_ROWS, end)

    def read(self, start: int, end: int) -> Iterator[PointColumns]:
        return self._points(f"rowid >= {int(start)} AND rowid < {int(end)}")

    def of_run(self, run_id: str) -> Iterator[PointColumns]:
        return self._points(f"run_uuid = {_quoted(run_id)}")


class _PostgresTable(_Table):
    _TABLES = "SELECT 1 WHERE to_regclass('metrics') IS NOT NULL"

    def __init__(self, url: sa.URL) -> None:
        self._url = url.set(drivername="postgresql").render_as_string(hide_password=False)

    def _connect(self) -> Any:
        from adbc_driver_postgresql import dbapi

        return dbapi.connect(self._url, autocommit=True)

    def end(self) -> int:
        size = "pg_relation_size('metrics') / current_setting('block_size')::int8"
        return int(next(self._rows(f"SELECT {size}"))[0])

    def ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        # The last page may have got more rows since: it is read again, and the next time too.
        for first in range(max(start - 1, 0), end, _POSTGRES_PAGES):
            yield first, min(first + _POSTGRES_PAGES, end)

    def read(self, start: int, end: int) -> Iterator[PointColumns]:
        return self._points(f"ctid >= '({int(start)},0)'::tid AND ctid < '({int(end)},0)'::tid")

    def of_run(self, run_id: str) -> Iterator[PointColumns]:
        return self._points(f"run_uuid = {_quoted(run_id)}")


def _quoted(text: str) -> str:
    """A run's id as a literal. Ids of MLflow's are letters, digits, ``_`` and ``-``."""
    if not text.replace("-", "").replace("_", "").isalnum():
        raise SourceError(f"not the id of a run: {text!r}")
    return f"'{text}'"


def _columns(batch: Any) -> PointColumns:
    runs, run_codes = _names(batch.column(0))
    keys, key_codes = _names(batch.column(1))
    steps, timestamps = (batch.column(place).cast(pa.int64()).to_numpy() for place in (2, 3))
    values = batch.column(4).cast(pa.float64()).to_numpy()
    is_nan = batch.column(5).cast(pa.bool_()).to_numpy(zero_copy_only=False)
    if is_nan.any():
        values = np.where(is_nan, _NAN, values)
    return PointColumns(runs, keys, run_codes, key_codes, steps, timestamps, values, 0)


def _names(column: Any) -> tuple[Names, Any]:
    encoded = column.dictionary_encode()
    return Names.of(encoded.dictionary.to_pylist()), encoded.indices.to_numpy().astype(np.uint32)


def ahead(source: Callable[[], Iterator[Any]], room: int = 2) -> Generator[Any]:
    """The items of an iterator, up to ``room`` of them made ahead in a thread of its own."""
    waiting: Queue[tuple[str, Any]] = Queue(room)
    stopped = threading.Event()

    def work() -> None:
        try:
            for item in source():
                waiting.put(("item", item))
                if stopped.is_set():
                    return
            waiting.put(("end", None))
        except BaseException as error:
            waiting.put(("error", error))

    thread = threading.Thread(target=work, name="runstream-read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                raise item
            yield item
    finally:
        stopped.set()
        while thread.is_alive():
            with suppress(Exception):
                waiting.get(timeout=0.05)
        thread.join()
