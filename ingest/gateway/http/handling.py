"""One handler per route: ``(route, headers, body) -> outcome``, whichever way its request came in.

A request comes in by one of two ways: the connection's own small protocol (``connection``), or aiohttp, which takes
what is not plain: chunked bodies, HTTP/1.0, pages of other origins. Both make a ``Call`` of it and give it
to the route's handler, so a route behaves alike on both and is written once.

To add a route, write a handler and add it to the gateway's ``Routes`` (in ``gateway/app.py``)::

    async def create_run(call: Call) -> Outcome:
        fields = msgspec.json.decode(call.body)          # whole, decoded from its Content-Encoding
        ...                                              # raise RunstreamError: the edge knows the status
        return json_outcome({"run": ...})

    routes.add_mlflow("POST", "runs/create", create_run, prefix=config.static_prefix)

That is all: it is then served below ``/api/2.0/mlflow`` and ``/ajax-api/2.0/mlflow``, on both ways in, counted under
its name, and the bounds of the connection (sizes, rates, deadlines) hold. What MLflow's rules about hosts and origins
do not let in never reaches a handler; it is relayed to the MLflow server, whose answer then holds. A handler runs on
the event loop and must not keep it for more than a few milliseconds: what may take longer goes to a thread.

A handler of a hot route may be a plain function that returns a future instead: the answer is then MLflow's empty
``{}`` as soon as the future is done, and no task is made for the request. The future may be shared by many requests
and is never cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from runstream.ingest.gateway.http import refusals
from runstream.ingest.gateway.http.admission import IDENTITY_HEADERS, Identity
from runstream.ingest.gateway.http.decompress import decompress_body
from runstream.schemas.errors import MlflowError
from runstream.schemas.mlflow.paths import APIS
from runstream.schemas.mlflow.statuses import status_of

_IDENTITY = tuple((name.lower(), name) for name in IDENTITY_HEADERS)
# Bodies are decompressed in threads, no more of them at a time than this.
_DECOMPRESSING = 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """A whole answer. ``headers`` has no ``Content-Length``; the edge adds it."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": refusals.JSON})
    body: bytes = b"{}"


@dataclass(slots=True)
class Call:
    """One whole request. Names of ``headers`` are lower case; ``identity`` is those that MLflow's server may base a
    verdict on, under their own names. ``query`` is what follows the question mark. ``body`` is decompressed."""

    route: Route
    headers: Mapping[str, str]
    identity: Identity
    query: str
    body: bytes


Result = asyncio.Future[None] | Coroutine[Any, Any, Outcome]
Handler = Callable[[Call], Result]
LetIn = Callable[[Identity], Awaitable[None]]
# Of these the request is to blame.
_OF_THE_REQUEST = frozenset((400, 404, 413, 415, 422))


@dataclass(frozen=True, slots=True)
class Route:
    """``name`` is what its requests are counted under. ``any_host`` routes know their callers by a secret, so
    MLflow's rules about hosts and origins do not matter for them. ``own_page`` routes are Runstream's alone, and
    its page may ask them too: browsers send their page's origin with every POST."""

    name: str
    handler: Handler
    any_host: bool = False
    own_page: bool = False


OK = Outcome(headers={"Content-Type": refusals.JSON, "X-Content-Type-Options": "nosniff"})


def json_outcome(value: object, status: int = 200) -> Outcome:
    """An answer in JSON."""
    return Outcome(status, OK.headers, orjson.dumps(value))


def identity_of(headers: Mapping[str, str]) -> Identity:
    """The headers, by lower-case names, that MLflow's server may base a verdict on."""
    return tuple((name, headers[key]) for key, name in _IDENTITY if key in headers)


class Counts(Protocol):
    """Where requests are counted."""

    def request(self, route: str) -> None:
        """A request on a route."""
        ...

    def refused(self, reason: str) -> None:
        """A request answered with an error."""
        ...


class Routes:
    """The gateway's own routes of whole requests, by method and path, and what every call of one goes through."""

    def __init__(
        self,
        telemetry: Counts,
        *,
        max_body_bytes: int,
        retry_after_s: int,
        let_in: LetIn | None = None,
    ) -> None:
        """``let_in`` raises for callers whom nobody knows: they are told so before anything about what they sent."""
        self.by_address: dict[tuple[str, str], Route] = {}
        self.max_body_bytes = max_body_bytes
        self._telemetry = telemetry
        self._retry_after_s = retry_after_s
        self._let_in = let_in
        self._decompressing = asyncio.Semaphore(_DECOMPRESSING)

    def add(
        self,
        method: str,
        path: str,
        handler: Handler,
        *,
        name: str,
        any_host: bool = False,
        own_page: bool = False,
    ) -> None:
        """Serve a path, as ``target.Target.path`` spells it. See ``Route``."""
        self.by_address[method, path] = Route(name, handler, any_host, own_page)

    def add_mlflow(self, method: str, path: str, handler: Handler, *, prefix: str) -> None:
        """Serve a path below MLflow's API, such as ``runs/log-batch``; its last part is its name."""
        for api in APIS:
            self.add(method, f"{prefix}{api}/{path}", handler, name=path.rpartition("/")[2])

    def begin(
        self, route: Route, headers: Mapping[str, str], identity: Identity, query: str, body: bytes
    ) -> Result:
        """Count a request and have it handled. Raises what its handler raises at once: see ``refused``."""
        self._telemetry.request(route.name)
        call = Call(route, headers, identity, query, body)
        if headers.get("content-encoding"):
            return self._told(call, self._decompressed(call))
        try:
            result = route.handler(call)
        except MlflowError as error:
            result = _failed(error)
        # What a future stands for is of a caller who was let in before.
        return result if isinstance(result, asyncio.Future) else self._told(call, result)

    async def _told(self, call: Call, result: Coroutine[Any, Any, Outcome]) -> Outcome:
        try:
            return await result
        except MlflowError as error:
            if status_of(error) in _OF_THE_REQUEST:
                await self._identify(call.route, call.identity)
            raise

    async def _identify(self, route: Route, identity: Identity) -> None:
        if self._let_in is not None and not route.any_host:
            await self._let_in(identity)

    async def answer(
        self, route: Route, headers: Mapping[str, str], identity: Identity, query: str, body: bytes
    ) -> Outcome:
        """The outcome of a request, whatever it is."""
        try:
            return await outcome_of(self.begin(route, headers, identity, query, body))
        except Exception as error:
            return self.refused(error)

    async def refused_unread(self, route: Route, identity: Identity, error: Exception) -> Outcome:
        """The outcome of a request whose body was not taken."""
        try:
            await self._identify(route, identity)
        except Exception as unknown:
            error = unknown
        return self.refused(error)

    def refused(self, error: Exception) -> Outcome:
        """The outcome of an error, which is counted."""
        self._telemetry.refused(refusals.reason(error))
        return Outcome(*refusals.parts(error, self._retry_after_s))

    async def _decompressed(self, call: Call) -> Outcome:
        await self._identify(call.route, call.identity)
        # zlib lets other threads run, and a small body can become a large one.
        async with self._decompressing:
            call.body = await asyncio.to_thread(
                decompress_body, call.body, call.headers.get("content-encoding"), self.max_body_bytes
            )
        return await outcome_of(call.route.handler(call))


async def _failed(error: MlflowError) -> Outcome:
    raise error


async def outcome_of(result: Result) -> Outcome:
    """Wait for what a handler returned."""
    if isinstance(result, asyncio.Future):
        # The record has other requests in it: one that leaves must not end the append.
        await asyncio.shield(result)
        return OK
    return await result


_OK = (
    b"HTTP/1.1 200 OK\r\n"
    b"Content-Type: application/json\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
    b"Content-Length: 2\r\n\r\n{}"
)


def written(outcome: Outcome, *, closing: bool) -> bytes:
    """An outcome as the bytes of an HTTP/1.1 response."""
    if outcome is OK and not closing:
        return _OK
    lines = [f"HTTP/1.1 {outcome.status} {refusals.phrase(outcome.status)}"]
    lines += [f"{name}: {value}" for name, value in outcome.headers.items()]
    lines.append(f"Content-Length: {len(outcome.body)}")
    if closing:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + outcome.body
