"""A process that makes what searches find their runs by, and keeps it.

PostgreSQL makes an index beside readers and writers (``CONCURRENTLY``); then the process ends. On SQLite it settles
runs (``settled``), in short transactions, as long as its gateway lives; several of them do no harm.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
import threading
import time
from enum import IntEnum
from typing import Final

import orjson

from runstream.ingest.control.processes.program import DATABASE_VARIABLE
from runstream.ingest.control.search import indexes, settled
from runstream.ingest.control.search.connections import Address

_log = logging.getLogger(__name__)
# Whoever makes the indexes holds this; any number that nobody else uses.
_ADVISORY_LOCK: Final = 7_426_215_001
_BUSY_TIMEOUT_S: Final = 60.0
_CACHE_KIB: Final = 65_536
_CHECKPOINT_PAGES: Final = 8_000
_PAUSE_S: Final = 0.01
_IDLE_S: Final = 1.0


class Outcome(IntEnum):
    """How it ended: the process's exit status."""

    THERE = 0
    LATER = 10
    """There are no tables yet, somebody else is at it, or the database is away."""
    NOT_ALLOWED = 11
    """This user may not make indexes."""


def build(address: Address) -> Outcome:
    """Make what is missing. Blocks, for minutes on a large database, and on SQLite until it is disturbed."""
    if address.dialect == "sqlite":
        return _keep_sqlite(address.name)
    return _build_postgres(address.name)


def _keep_sqlite(path: str) -> Outcome:
    if not os.path.exists(path):  # noqa: PTH110 - SQLite would make an empty one
        return Outcome.LATER
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    try:
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        # What is lost with the power is settled again: a transaction is there as a whole, or not.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        settler = settled.Settler(connection)
        while settled.is_made(connection) or settled.make(connection):
            begun = time.monotonic()
            if settler.work():
                # Others write in between for as long as this did.
                time.sleep(max(_PAUSE_S, time.monotonic() - begun))
            else:
                time.sleep(_IDLE_S)
        return Outcome.LATER
    except sqlite3.Error as error:
        _log.warning("searches scan for now: %s", error)
        return Outcome.NOT_ALLOWED if "readonly" in str(error) else Outcome.LATER
    finally:
        connection.close()


def _build_postgres(conninfo: str) -> Outcome:
    import psycopg

    try:
        with psycopg.connect(conninfo, autocommit=True, connect_timeout=5) as connection:
            wanted = indexes.INDEXES
            tables = ["alembic_version", *{table for table, _ in wanted.values()}]
            row = connection.execute(
                "SELECT count(*) FROM unnest(%s::text[]) AS name WHERE to_regclass(name) IS NULL", [tables]
            ).fetchone()
            lock = connection.execute("SELECT pg_try_advisory_lock(%s)", [_ADVISORY_LOCK]).fetchone()
            if row is None or row[0] or lock is None or not lock[0]:
                return Outcome.LATER
            state = connection.execute(
                "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
                " WHERE pg_table_is_visible(c.oid) AND c.relname = ANY(%s)",
                [list(wanted)],
            ).fetchall()
            for name, valid in state:
                if not valid:  # the making of it was cut off
                    connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}".encode())
            there = {name for name, valid in state if valid}
            for name, (table, columns) in wanted.items():
                if name in there:
                    continue
                with _Timed(name):
                    connection.execute(
                        f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {table} ({columns})".encode()
                    )
            return Outcome.THERE
    except psycopg.errors.InsufficientPrivilege:
        return Outcome.NOT_ALLOWED
    except psycopg.Error as error:
        _log.warning("the indexes of searches are not made yet: %s", " ".join(str(error).split()))
        return Outcome.LATER


class _Timed:
    """Says what takes long."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._begun = time.monotonic()
        self._timer = threading.Timer(
            1.0, _log.warning, ("making index %s; searches scan meanwhile", self._name)
        )
        self._timer.daemon = True
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        took_s = time.monotonic() - self._begun
        if took_s >= 1.0:
            _log.warning("made index %s in %.0f s", self._name, took_s)


def main() -> None:
    """Make the indexes of the database that the environment names; end when the input ends."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    threading.Thread(target=_end_with_input, daemon=True).start()
    dialect, name = orjson.loads(os.environ[DATABASE_VARIABLE])
    outcome = build(Address(dialect, name))
    sys.stderr.flush()
    os._exit(outcome)  # the thread is in a read that nothing ends


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(Outcome.LATER)


if __name__ == "__main__":
    main()
