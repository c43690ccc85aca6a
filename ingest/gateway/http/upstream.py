"""A server behind the gateway: the MLflow server or the query service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import aiohttp
import orjson
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from runstream.ingest.gateway.http.forwarding import client_moves, end_to_end, forwarded, moving, single
from runstream.ingest.gateway.http.holding import Holding
from runstream.ingest.gateway.http.repeatable import is_away, is_repeatable, was_nothing_done
from runstream.schemas.errors import MlflowError, RunstreamError
from runstream.schemas.tasks import while_wanted
from runstream.schemas.wire import TOKEN_HEADER

T = TypeVar("T")

_CHUNK_BYTES = 256 << 10
# Bodies up to this size are read before they are passed on, so that they can be sent again: as much as aiohttp reads
# ahead of a connection anyway.
_REPLAYED_BYTES = 128 << 10
# A server that hangs: longer than any client of MLflow's waits (MLFLOW_HTTP_REQUEST_TIMEOUT, 120 s).
_BEGINS_WITHIN_S = 180.0
# Longer than the heartbeats of a stream of events; MLflow's AI gateway streams what a model says in its own time.
_SILENT_ANSWER_S = 120.0
_QUESTIONS = 256
_IDLE_S = 30.0
# Of an answer that is told on as a whole: RFC 9110, section 11.6.1, makes it a part of every 401.
_TOLD_ON = ("WWW-Authenticate",)


class UpstreamUnavailableError(RunstreamError):
    """The server behind does not answer, or cannot now; trying again soon may help. ``nothing_done`` as in the base."""

    retryable = True

    def __init__(self, message: str, *, nothing_done: bool = True) -> None:
        super().__init__(message)
        self.nothing_done = nothing_done


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer of a server behind."""

    status: int
    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def error_code(self) -> str | None:
        """MLflow's ``error_code``, if the body is an error in MLflow's shape."""
        try:
            code = orjson.loads(self.body)["error_code"]
        except (ValueError, TypeError, KeyError):
            return None
        return code if isinstance(code, str) else None

    @property
    def is_away(self) -> bool:
        """Whether it says that what the server needs, its database, is away."""
        return is_away(self.status, self.body)

    def response(self) -> web.Response:
        """The same answer, for the caller."""
        return web.Response(
            status=self.status, body=self.body, headers={"Content-Type": self.content_type, **self.headers}
        )


class Upstream:
    """Talks to one base URL over pooled connections.

    ``name`` is for people (errors, logs, readiness). ``prefix`` stands before the paths of the gateway's own questions;
    what is relayed has the path that its sender gave it. ``token`` is the secret of Runstream's roles, for a server
    that demands it; what a caller sends as one is never passed on. ``reads_only`` says that the server does nothing
    that must not be done twice. With ``holding``, requests that it has surely not begun with wait in the gateway until
    it is back.

    The gateway's own questions are answered within ``timeout_s`` and have connections of their own: relays, whose
    callers may read as slowly as they like, never take them. Of those there are ``max_connections``; one more waits for
    a connection at most ``connect_s``. A relay whose caller or server does not move for ``stall_s`` is broken off.

    Close it once; it belongs to one event loop.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        timeout_s: float,
        prefix: str = "",
        token: str = "",
        reads_only: bool = False,
        holding: Holding | None = None,
        max_connections: int = 256,
        connect_s: float = 10.0,
        stall_s: float = 60.0,
    ) -> None:
        self.name = name
        self._base = base_url.rstrip("/")
        self._prefix = prefix
        self._secret = {TOKEN_HEADER: token} if token else {}
        self._reads_only = reads_only
        self._line = holding.line() if holding is not None else None
        self._stall_s = stall_s
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=timeout_s)
        # ``connect`` counts the wait for a free connection too; the rest is bounded by hand, as far as it moves.
        self._relay_timeout = aiohttp.ClientTimeout(
            total=None, connect=connect_s, sock_connect=min(connect_s, timeout_s)
        )
        self._asking = _session(aiohttp.TCPConnector(limit=_QUESTIONS, keepalive_timeout=_IDLE_S))
        self._relaying = _session(aiohttp.TCPConnector(limit=max_connections, keepalive_timeout=_IDLE_S))
        # A kept connection may turn out to be closed only when something has been sent on it: what must not be done
        # twice goes over a new one, which the server either takes or refuses.
        self._once = _session(aiohttp.TCPConnector(limit=max_connections, force_close=True))
        # Answers that end only when somebody ends them.
        self._endless: set[aiohttp.ClientResponse] = set()

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """POST a whole body, which may be sent twice, and read the whole answer, within the time-out."""
        return await self._request("POST", path, body, headers)

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """GET a path and read the whole answer, within the time-out."""
        return await self._request("GET", path, None, headers or {})

    async def held(
        self, attempt: Callable[[], Awaitable[T]], *, size: int = 0, until: float | None = None
    ) -> T:
        """The result of an attempt at this server, which is repeated while the server is away: see ``Line.run``."""
        if self._line is None:
            return await attempt()
        return await self._line.run(attempt, size=size, until=until)

    async def post_held(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """``post``, ``held`` also while the server says that its database is away."""
        return await self.held(lambda: self._present("POST", path, body, headers), size=len(body))

    async def get_held(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """``get``, ``held`` also while the server says that its database is away."""
        return await self.held(lambda: self._present("GET", path, None, headers or {}))

    async def deliver(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        """The whole answer to somebody's whole request, ``held`` as ``relay`` does. ``path`` has its query."""
        passing = _Passing(
            method,
            URL(self._base + self._prefix + path, encoded=True),
            headers=CIMultiDict({**headers, **self._secret}),
            body=body,
            content=None,
            repeatable=self._reads_only or is_repeatable(method, path.partition("?")[0]),
            begin_timeout_s=_BEGINS_WITHIN_S,
        )
        response, whole = await self.held(lambda: self._begin(passing), size=len(body or b""))
        try:
            async with asyncio.timeout(_SILENT_ANSWER_S):
                return await _answer(response, whole)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._broke_off(nothing_done=passing.repeatable) from error
        finally:
            response.release()

    async def _present(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        answer = await self._request(method, path, body, headers)
        if answer.is_away:
            raise self._without_database()
        return answer

    async def _request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        try:
            async with self._asking.request(
                method,
                self._base + self._prefix + path,
                data=body,
                headers={**headers, **self._secret},
                timeout=self._timeout,
            ) as response:
                return await _answer(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UpstreamUnavailableError(f"the {self.name} server does not answer") from error

    async def relay(
        self,
        request: web.Request,
        *,
        extra_headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content: AsyncIterator[bytes] | None = None,
        before_answer: Callable[[], None] | None = None,
        begin_timeout_s: float = _BEGINS_WITHIN_S,
        mounted_at: str = "",
    ) -> web.StreamResponse:
        """Pass a request on and stream the answer back; bodies of size are not held in memory.

        ``body`` is the request's body if it was read already, ``content`` what stands between its stream and the
        server; an error of it ends both. The answer has to begin within ``begin_timeout_s`` of the body's last bytes.
        ``before_answer`` is called when the server has answered and the caller has seen nothing of it yet.
        ``mounted_at`` is what the request's path has before that which the server knows. With ``reads_only`` a
        request whose caller leaves before its answer begins is taken back: some cost much until they are answered.
        Raises ``UpstreamUnavailableError`` if the server did not begin to answer, or only to say that its database is
        away.
        """
        if body is None and content is None and request.can_read_body:
            if request.content_length is not None and request.content_length <= _REPLAYED_BYTES:
                async with client_moves(self._stall_s):
                    body = await request.read()
            else:
                content = request.content.iter_any()
        passing = _Passing(
            request.method,
            # Bytes of the target as the client sent them: decoding and encoding again could change their meaning.
            URL(self._base + request.raw_path.removeprefix(mounted_at), encoded=True),
            headers=forwarded(request),
            body=body,
            content=content,
            repeatable=self._reads_only or is_repeatable(request.method, request.path),
            begin_timeout_s=begin_timeout_s,
        )
        passing.headers.update(self._secret)

        async def attempt() -> tuple[aiohttp.ClientResponse, bytes | None]:
            if _has_left(request):
                raise asyncio.CancelledError
            beginning = self._begin(passing)
            if not self._reads_only:
                return await beginning
            return await while_wanted(beginning, lambda: _has_left(request))

        try:
            upstream, whole = await self.held(attempt, size=len(body or b""))
        except UpstreamUnavailableError as error:
            raise self._fault(error, passing, request) from error.__cause__
        if upstream.content_type == "text/event-stream":
            self._endless.add(upstream)
        try:
            if before_answer is not None:
                before_answer()
            return await self._pass_back(request, upstream, whole, extra_headers or {})
        except (aiohttp.ClientError, TimeoutError) as error:
            # The answer has begun: all that is left is to break the connection, so that the caller sees it.
            if request.transport is not None:
                request.transport.abort()
            raise asyncio.CancelledError from error
        finally:
            self._endless.discard(upstream)
            upstream.release()

    async def _begin(self, passing: _Passing) -> tuple[aiohttp.ClientResponse, bytes | None]:
        """Send a request; the beginning of its answer, and the whole body of one that had to be looked at."""
        session = self._relaying if passing.repeatable else self._once
        loop = asyncio.get_running_loop()
        within_s = passing.begin_timeout_s
        try:
            async with asyncio.timeout(within_s) as bound:
                data: bytes | AsyncIterator[bytes] | None = passing.body
                if passing.content is not None:
                    data = moving(
                        passing.content, self._stall_s, lambda: bound.reschedule(loop.time() + within_s)
                    )
                upstream = await session.request(
                    passing.method,
                    passing.url,
                    data=data,
                    headers=passing.headers,
                    allow_redirects=False,
                    timeout=self._relay_timeout,
                )
                whole = None
                if upstream.status == 503 and 0 < (upstream.content_length or 0) <= _REPLAYED_BYTES:
                    whole = await upstream.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise UpstreamUnavailableError(f"the {self.name} server does not answer") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._broke_off(nothing_done=passing.repeatable and passing.content is None) from error
        if (
            whole is not None
            and passing.content is None
            and is_away(upstream.status, whole)
            and (passing.repeatable or was_nothing_done(whole))
        ):
            raise self._without_database()
        return upstream, whole

    async def _pass_back(
        self,
        request: web.Request,
        upstream: aiohttp.ClientResponse,
        whole: bytes | None,
        extra_headers: Mapping[str, str],
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=upstream.status, reason=upstream.reason)
        response.headers.update(end_to_end(upstream.headers))
        response.headers.update(extra_headers)
        if upstream.content_length is not None and request.method != "HEAD":
            response.content_length = upstream.content_length
        elif upstream.content_length is None and request.version >= (1, 1):
            response.enable_chunked_encoding()
        await response.prepare(request)
        chunks = upstream.content.iter_chunked(_CHUNK_BYTES) if whole is None else single(whole)
        async for chunk in moving(chunks, _SILENT_ANSWER_S):
            async with asyncio.timeout(self._stall_s):
                await response.write(chunk)
        async with asyncio.timeout(self._stall_s):
            await response.write_eof()
        return response

    def _broke_off(self, *, nothing_done: bool) -> UpstreamUnavailableError:
        return UpstreamUnavailableError(
            f"the {self.name} server broke off, or does not answer", nothing_done=nothing_done
        )

    def _fault(
        self, error: UpstreamUnavailableError, passing: _Passing, request: web.Request
    ) -> RunstreamError:
        """What a request is told that was not relayed."""
        if isinstance(of_body := request.content.exception(), MlflowError):
            return of_body
        if passing.repeatable and not error.nothing_done:
            # A body of size is not here any more to be sent again; its sender may.
            error.nothing_done = True
            error.away_s = self._line.away_s if self._line is not None else 0.0
        return error

    def _without_database(self) -> UpstreamUnavailableError:
        return UpstreamUnavailableError(f"the {self.name} server's database is away")

    def end_streams(self) -> None:
        """Break off streams of events, which nothing else ends; their readers connect again elsewhere."""
        for upstream in list(self._endless):
            upstream.close()

    async def close(self) -> None:
        """Close every connection."""
        for session in (self._asking, self._relaying, self._once):
            await session.close()


@dataclass(slots=True)
class _Passing:
    """A request on its way to the server: with its body, or with what its body comes from."""

    method: str
    url: URL
    headers: CIMultiDict[str]
    body: bytes | None
    content: AsyncIterator[bytes] | None
    repeatable: bool
    begin_timeout_s: float


def _has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


async def _answer(response: aiohttp.ClientResponse, whole: bytes | None = None) -> Answer:
    return Answer(
        response.status,
        await response.read() if whole is None else whole,
        response.headers.get("Content-Type", "application/octet-stream"),
        {name: response.headers[name] for name in _TOLD_ON if name in response.headers},
    )


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept", "Content-Type"),
    )
