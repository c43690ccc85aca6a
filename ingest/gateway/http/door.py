"""What the connections of one process share: the routes that they serve by themselves, their bounds, their end.

Every connection begins with the small protocol of ``connection``, in front of an aiohttp server: a plain request for
one of the gateway's own routes is read from the socket and handled without a framework's request object, which
costs as much as storing a point; the bytes of all others go to aiohttp. The bounds are the same for both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from aiohttp.web_protocol import RequestHandler

from runstream.ingest.gateway.http.admission import Identity
from runstream.ingest.gateway.http.arriving import Arriving
from runstream.ingest.gateway.http.framing import Head, Heads
from runstream.ingest.gateway.http.handling import Route, Routes, identity_of
from runstream.ingest.gateway.http.hosts import HostRules
from runstream.ingest.gateway.http.target import read_target
from runstream.schemas.errors import MlflowError

# How many connections are looked at for one that can be closed to make room.
_LOOKED_AT = 256


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a connection may cost. Times in seconds.

    A head has to be whole ``head_s`` after its first byte. A body that brings fewer than ``least_rate`` bytes a
    second for ``slow_s`` is ended; so is a caller who does not read its answers for as long. A connection
    without a request is closed after ``idle_s``. Past ``connections`` those close first that have been without one
    for longest. ``arriving_bytes``: see ``arriving``.
    """

    idle_s: float = 75.0
    head_s: float = 20.0
    least_rate: int = 1024
    slow_s: float = 30.0
    arriving_bytes: int = 64 << 20
    connections: int = 10_000


@dataclass(slots=True)
class Meaning:
    """What the head of a request says. ``route`` is ``None`` where aiohttp has to answer."""

    size: int
    body_bytes: int
    chunked: bool
    route: Route | None
    headers: Mapping[str, str]
    identity: Identity
    query: str
    closes: bool


class Guest(Protocol):
    """A connection, as its door sees it. ``finished`` is told when its request has been answered."""

    last_active: float
    finished: asyncio.Future[None] | None

    @property
    def busy(self) -> bool:
        """Whether a request is being handled."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether there is no request, nor a part of one."""
        ...

    def close(self) -> None:
        """Close it now."""
        ...

    def close_when_idle(self) -> None:
        """Close it as soon as it has no request."""
        ...


class Door:
    """The door of a process. ``make_handler`` makes aiohttp's protocol for one connection."""

    def __init__(
        self,
        routes: Routes,
        hosts: HostRules,
        make_handler: Callable[[], RequestHandler],
        bounds: Bounds,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.routes = routes
        self.make_handler = make_handler
        self.bounds = bounds
        self.arriving = Arriving(bounds.arriving_bytes, loop.time)
        self.heads = Heads(self._understand)
        self.closing = False
        # In the order in which they came; those that have been looked at go to the end.
        self.connections: dict[Guest, None] = {}
        self._hosts = hosts

    def admit(self, connection: Guest) -> bool:
        """Take a new connection in; one that has no request gives way if there are too many. ``False``: none has."""
        if len(self.connections) >= self.bounds.connections and not self._make_room():
            return False
        self.connections[connection] = None
        return True

    def _make_room(self) -> bool:
        looked_at = [one for one, _ in zip(self.connections, range(_LOOKED_AT), strict=False)]
        for one in looked_at:
            del self.connections[one]
            self.connections[one] = None
        idle = [one for one in looked_at if one.is_idle]
        if not idle:
            return False
        longest = min(idle, key=lambda one: one.last_active)
        del self.connections[longest]
        longest.close()
        return True

    def _understand(self, head: Head) -> Meaning:
        route, headers, query = None, {}, ""
        try:
            headers = {name.decode("ascii"): value.decode() for name, value in head.headers.items()}
            method, _, rest = head.line.decode("ascii").partition(" ")
            target = read_target(rest.removesuffix(" HTTP/1.1"))
        except (UnicodeDecodeError, MlflowError):
            pass  # aiohttp's side refuses it
        else:
            query = target.query
            route = self.routes.by_address.get((method, target.path))
            if route is not None and not self._takes(route, headers, head.body_bytes):
                route = None
            if target.authority is not None or head.chunked:
                route = None
        return Meaning(
            head.size,
            head.body_bytes,
            head.chunked,
            route,
            headers,
            identity_of(headers),
            query,
            headers.get("connection", "").lower() == "close",
        )

    def _takes(self, route: Route, headers: Mapping[str, str], body_bytes: int) -> bool:
        """Whether the request can be handled here; of what is left, aiohttp's side knows more."""
        return (
            body_bytes <= self.routes.max_body_bytes
            and "expect" not in headers
            and headers.get("connection", "").lower() in ("", "close", "keep-alive")
            and "host" in headers
            and (route.any_host or ("origin" not in headers and self._hosts.allows(headers["host"])))
        )

    async def drain(self) -> None:
        """Close idle connections, and the others as soon as their request is answered here."""
        self.closing = True
        for connection in list(self.connections):
            connection.close_when_idle()
        while busy := [connection for connection in self.connections if connection.busy]:
            busy[0].finished = asyncio.get_running_loop().create_future()
            await busy[0].finished
