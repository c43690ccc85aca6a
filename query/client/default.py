"""The connection's methods as functions, on the server that MLflow's tracking URI names."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterator
from typing import Any

import pandas as pd

from runstream.query.client.connection import Connection
from runstream.query.client.http import tracking_uri
from runstream.query.client.live import Point
from runstream.query.client.run import Run

_lock = threading.Lock()
_connections: dict[str, Connection] = {}


def get_metrics(*args: Any, **options: Any) -> Any:
    """See ``Connection.get_metrics``."""
    return _connection().get_metrics(*args, **options)


def latest_metrics(*args: Any, **options: Any) -> Any:
    """See ``Connection.latest_metrics``."""
    return _connection().latest_metrics(*args, **options)


def summary(*args: Any, **options: Any) -> pd.DataFrame:
    """See ``Connection.summary``."""
    return _connection().summary(*args, **options)


def aggregate(*args: Any, **options: Any) -> pd.DataFrame:
    """See ``Connection.aggregate``."""
    return _connection().aggregate(*args, **options)


def runs(*args: Any, **options: Any) -> Any:
    """See ``Connection.runs``."""
    return _connection().runs(*args, **options)


def tail(*args: Any, **options: Any) -> Iterator[Point]:
    """See ``Connection.tail``."""
    return _connection().tail(*args, **options)


def sql(query: str, **options: Any) -> Any:
    """See ``Connection.sql``."""
    return _connection().sql(query, **options)


def get_run(run_id: Any) -> Run:
    """See ``Connection.get_run``."""
    return _connection().get_run(run_id)


def close() -> None:
    """Close the connections behind these functions; the next call opens a new one."""
    with _lock:
        for connection in _connections.values():
            connection.close()
        _connections.clear()


def _connection() -> Connection:
    uri = tracking_uri()
    with _lock:
        if not _connections:
            atexit.register(close)
        if uri not in _connections:
            _connections[uri] = Connection(uri)
        return _connections[uri]
