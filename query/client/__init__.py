"""Metrics in notebooks: what ``import runstream`` offers. Needs httpx, pyarrow and pandas, nothing of the
server."""

from __future__ import annotations

from runstream.query.client.aio import AsyncConnection, connect_async
from runstream.query.client.connection import Connection, connect
from runstream.query.client.frames import MetricsFrame
from runstream.query.client.http import ServerError
from runstream.query.client.live import Point
from runstream.query.client.run import Run

__all__ = [
    "AsyncConnection",
    "Connection",
    "MetricsFrame",
    "Point",
    "Run",
    "ServerError",
    "connect",
    "connect_async",
]
