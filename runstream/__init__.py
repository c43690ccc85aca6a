"""Runstream: a drop-in MLflow tracking server whose metric plane is a stream.

For notebooks::

    import runstream

    runstream.get_metrics(run_ids, "train/*")             # the server that MLflow's tracking URI names
    runstream.runs("digits", columns=["params.*", "metrics.loss.min"])
    server = runstream.connect("http://localhost:5000")   # or another one
    server.get_metrics(experiment="digits", filter="params.lr = '0.1'", max_points=500).plot()

For trainings::

    runstream.enable()                                    # MLflow's calls return when they are in a file: the spool
    with runstream.start_run(experiment="digits") as run: # or without MLflow
        run.log({"loss": 0.1}, step=1)
    runstream.status()                                    # what waits, and why

Everything is imported at first use, so that importing this costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runstream.ingest.client.run import create_run as create_run
    from runstream.ingest.client.run import enable as enable
    from runstream.ingest.client.run import start_run as start_run
    from runstream.ingest.client.run import status as status
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
    from runstream.query.client.default import runs as runs
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
_OF_DEFAULT = ("aggregate", "get_metrics", "get_run", "latest_metrics", "runs", "sql", "summary", "tail")
_OF_TRAINING = ("create_run", "enable", "start_run", "status")

__all__ = [*_CLIENT, *_OF_DEFAULT, *_OF_TRAINING]


def __getattr__(name: str) -> Any:
    if name in _CLIENT or name in _OF_DEFAULT:
        try:
            return getattr(
                import_module(f"runstream.query.client{'' if name in _CLIENT else '.default'}"), name
            )
        except ModuleNotFoundError as error:
            if error.name not in ("httpx", "numpy", "pandas", "pyarrow"):
                raise
            raise ImportError(
                f"runstream.{name} needs {error.name}: pip install 'runstream[notebook]' (Python 3.11 or newer)"
            ) from None
    if name in _OF_TRAINING:
        return getattr(import_module("runstream.ingest.client.run"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
