"""Runstream: a drop-in MLflow tracking server whose metric plane is a stream.

For notebooks::

    import runstream

    runstream.get_metrics(run_ids, "train/*")             # the server that MLflow's tracking URI names
    server = runstream.connect("http://localhost:5000")   # or another one
    server.get_metrics(experiment="digits", filter="params.lr = '0.1'", max_points=500).plot()

Everything is imported at first use, so that importing this costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runstream.query.client import AsyncConnection as AsyncConnection
    from runstream.query.client import Connection as Connection
    from runstream.query.client import MetricsFrame as MetricsFrame
    from runstream.query.client import Point as Point
    from runstream.query.client import Run as Run
    from runstream.query.client import ServerError as ServerError
    from runstream.query.client import connect as connect
    from runstream.query.client import connect_async as connect_async
    from runstream.query.client.default import aggregate as aggregate
    from runstream.query.client.default import get_metrics as get_metrics
    from runstream.query.client.default import get_run as get_run
    from runstream.query.client.default import latest_metrics as latest_metrics
    from runstream.query.client.default import sql as sql
    from runstream.query.client.default import summary as summary
    from runstream.query.client.default import tail as tail

_CLIENT = (
    "AsyncConnection",
    "Connection",
    "MetricsFrame",
    "Point",
    "Run",
    "ServerError",
    "connect",
    "connect_async",
)
_OF_DEFAULT = ("aggregate", "get_metrics", "get_run", "latest_metrics", "sql", "summary", "tail")

__all__ = [*_CLIENT, *_OF_DEFAULT]


def __getattr__(name: str) -> Any:
    if name in _CLIENT:
        return getattr(import_module("runstream.query.client"), name)
    if name in _OF_DEFAULT:
        return getattr(import_module("runstream.query.client.default"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
