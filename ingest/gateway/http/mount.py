"""The way in through aiohttp: what every request has to obey before a rule of ours looks at it, and the gateway's
routes of whole requests for those that the connection does not take by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any, Protocol

from aiohttp import web
from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.typedefs import Middleware
from multidict import CIMultiDictProxy
from yarl import URL

from runstream.ingest.gateway.http import refusals
from runstream.ingest.gateway.http.admission import IDENTITY_HEADERS
from runstream.ingest.gateway.http.handling import Outcome, Route, Routes, identity_of
from runstream.ingest.gateway.http.hosts import INVALID_HOST, HostRules
from runstream.ingest.gateway.http.target import read_target
from runstream.schemas.errors import MlflowError

Relay = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Make = Callable[..., web.BaseRequest]
# Of these, one request has one.
_SINGLE = ("Host", "Origin", *IDENTITY_HEADERS)
# Fields for the server at the end: a Connection header cannot name them for removal (RFC 9110, section 7.6.1).
_END_TO_END = frozenset(
    name.lower()
    for name in (*_SINGLE, "Content-Type", "Content-Length", "Content-Encoding", "Accept", "Range")
)
_FAULT = web.RequestKey("fault", MlflowError)
_AUTHORITY = web.RequestKey("authority", str)


class Server(Protocol):
    """aiohttp's: ``request_factory`` makes the request of each message that it has read."""

    request_factory: _Make


def normalise(server: Server) -> None:
    """Have every request of an aiohttp server come with the one spelling of its address, before it is routed."""
    make = server.request_factory

    def make_request(message: RawRequestMessage, *rest: Any, **named: Any) -> web.BaseRequest:
        try:
            target = read_target(message.path)
        except MlflowError as error:
            request = make(message._replace(path="/", url=URL("/")), *rest, **named)
            request[_FAULT] = error
            return request
        path, _, query = target.raw.partition("?")
        if target.raw != message.path:
            url = URL.build(path=path, query_string=query, encoded=True)
            message = message._replace(path=target.raw, url=url)
        request = make(message, *rest, **named)
        if target.authority is not None:
            request[_AUTHORITY] = target.authority
        return request

    server.request_factory = make_request


Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


def refusing_odd(hosts: HostRules, probes: Collection[str]) -> Middleware:
    """A middleware that refuses, at once and in MLflow's words, what two servers might read in two ways, and hosts
    that nobody must serve. ``probes`` are the paths for which ``HostRules.allows_probe`` is the rule."""

    @web.middleware
    async def refuse_odd(request: web.Request, handler: Handle) -> web.StreamResponse:
        fault = _fault_of(request)
        if fault is not None:
            return refusals.refusal(fault, 1)
        host = request.headers.get("Host", "")
        if not host or hosts.refuses(host) or (request.path in probes and not hosts.allows_probe(host)):
            return web.Response(status=403, text=INVALID_HOST)
        try:
            return await handler(request)
        except MlflowError as error:  # of a body that was not let in
            return refusals.refusal(error, 1)
        except web.HTTPException as refused:
            if refused.status < 400:
                raise
            kept = {name: value for name, value in refused.headers.items() if name == "Allow"}
            return web.Response(
                status=refused.status,
                body=MlflowError(refused.reason).body(),
                headers={"Content-Type": refusals.JSON, **kept},
            )

    return refuse_odd


def _fault_of(request: web.Request) -> MlflowError | None:
    headers = request.headers
    if request.version not in (HttpVersion10, HttpVersion11):
        return MlflowError("The server speaks HTTP/1.1", "HTTP_VERSION_NOT_SUPPORTED")
    if _FAULT in request:
        return request[_FAULT]
    if "Host" not in headers and request.version == HttpVersion11:
        return MlflowError("The request has no Host header")
    for name in _SINGLE:
        if len(headers.getall(name, ())) > 1:
            return MlflowError(f"The request has more than one {name} header")
    if (authority := request.get(_AUTHORITY)) is not None and authority != headers.get("Host"):
        # RFC 9112, section 3.2.2 has the target's host win. One of two that differ is for somebody else.
        return MlflowError("The request's target and its Host header name two hosts")
    named = {token.strip().lower() for token in ",".join(headers.getall("Connection", ())).split(",")}
    if not named.isdisjoint(_END_TO_END):
        return MlflowError("A Connection header cannot name a header of the request itself")
    if not all(_is_text(value) for value in headers.values()):
        return MlflowError("The request's headers are not UTF-8")
    return None


def _is_text(value: str) -> bool:
    """Whether this was UTF-8; aiohttp keeps other bytes as surrogates, which cannot be passed on."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def lower_case(headers: CIMultiDictProxy[str]) -> dict[str, str]:
    """Headers by lower-case names; the values of repeated ones joined."""
    joined: dict[str, str] = {}
    for name, value in headers.items():
        name = name.lower()
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


class MountedRoutes:
    """The gateway's routes of whole requests as handlers of aiohttp."""

    def __init__(self, routes: Routes, *, relay: Relay, hosts: HostRules) -> None:
        self._routes = routes
        self._relay = relay
        self._hosts = hosts

    def add_to(self, app: web.Application) -> None:
        """Mount the routes, before any that takes every path."""
        for (method, path), route in self._routes.by_address.items():
            app.router.add_route(method, path, self._handler(route))

    def _handler(self, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            if not route.any_host and not self._hosts.serves(request, own_page=route.own_page):
                return await self._relay(request)
            headers = lower_case(request.headers)
            identity = identity_of(headers)
            try:
                body = await request.read()
            except (web.HTTPRequestEntityTooLarge, MlflowError) as error:
                return _response(await self._routes.refused_unread(route, identity, error))
            return _response(
                await self._routes.answer(route, headers, identity, request.rel_url.raw_query_string, body)
            )

        return handle


def _response(outcome: Outcome) -> web.Response:
    return web.Response(status=outcome.status, headers=outcome.headers, body=outcome.body)
