"""Metrics in notebooks: what ``import runstream`` offers. Needs httpx, pyarrow and pandas, nothing of the
server."""

from __future__ import annotations

from query.client.aio import AsyncConnection, connect_async
from query.client.connection import Connection, connect
from query.client.frames import MetricsFrame
from query.client.http import ServerError
from query.client.live import Point
from query.client.run import Run

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
