"""What makes the protocol of each connection: a door, and who stands at it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp.web_protocol import RequestHandler

from runstream.ingest.gateway.http.connection import Connection
from runstream.ingest.gateway.http.door import Bounds, Door
from runstream.ingest.gateway.http.handling import Routes
from runstream.ingest.gateway.http.hosts import HostRules


@dataclass(frozen=True, slots=True)
class Front:
    """The protocol factory of a process."""

    door: Door

    def __call__(self) -> asyncio.Protocol:
        """The protocol for a new connection."""
        return Connection(self.door)

    async def drain(self) -> None:
        """See ``Door.drain``."""
        await self.door.drain()


class _Uncounted:
    """A ``Counts`` for servers without routes of whole requests."""

    def request(self, route: str) -> None:
        pass

    def refused(self, reason: str) -> None:
        pass


def plain_front(make_handler: Callable[[], RequestHandler], connections: int) -> Front:
    """A door without routes of its own: all requests go to aiohttp, within the bounds."""
    routes = Routes(_Uncounted(), max_body_bytes=0, retry_after_s=1)
    return Front(Door(routes, HostRules("*"), make_handler, Bounds(connections=connections)))
