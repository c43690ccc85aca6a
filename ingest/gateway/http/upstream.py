"""A server behind the gateway: the MLflow server or the query service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

import aiohttp
import orjson
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from runstream.schemas.errors import RunstreamError
from runstream.schemas.tasks import while_wanted
from runstream.schemas.wire import TOKEN_HEADER

# RFC 9110, section 7.6.1: these belong to one connection and are never passed on.
_HOP_BY_HOP = frozenset(
    name.lower()
    for name in (
        "Connection",
        "Keep-Alive",
        "Proxy-Authenticate",
        "Proxy-Authorization",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
    )
)
_END_TO_END = frozenset(
    (
        *("host", "authorization", "cookie", "x-mlflow-workspace", "origin"),
        *("range", "if-range", "if-match", "if-none-match", "cache-control", "accept", "expect"),
        *("content-length", "content-type", "content-encoding", "content-range", "content-disposition"),
        *("forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"),
    )
)
_CHUNK_BYTES = 256 << 10
# Of an answer that is told on as a whole: RFC 9110, section 11.6.1, makes it a part of every 401.
_TOLD_ON = ("WWW-Authenticate",)


class UpstreamUnavailableError(RunstreamError):
    """The server behind does not answer; trying again soon may help."""

    retryable = True


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

    def response(self) -> web.Response:
        """The same answer, for the caller."""
        return web.Response(
            status=self.status, body=self.body, headers={"Content-Type": self.content_type, **self.headers}
        )


class Upstream:
    """Talks to one base URL over pooled connections.

    ``name`` is for people (errors, logs, readiness). ``prefix`` stands before the paths of the gateway's own questions;
    what is relayed has the path that its sender gave it. ``token`` is the secret of Runstream's roles, for a server
    that demands it; what a caller sends as one is never passed on. Close it once; it belongs to one event loop.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        timeout_s: float,
        prefix: str = "",
        token: str = "",
        max_connections: int = 256,
    ) -> None:
        self.name = name
        self._base = base_url.rstrip("/")
        self._prefix = prefix
        self._secret = {TOKEN_HEADER: token} if token else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=timeout_s)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=max_connections, keepalive_timeout=30),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept", "Content-Type"),
        )
        # Answers that end only when somebody ends them.
        self._endless: set[aiohttp.ClientResponse] = set()

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """POST a whole body and read the whole answer, within the time-out."""
        return await self._request("POST", path, body, headers)

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """GET a path and read the whole answer, within the time-out."""
        return await self._request("GET", path, None, headers or {})

    async def _request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        try:
            async with self._session.request(
                method,
                self._base + self._prefix + path,
                data=body,
                headers={**headers, **self._secret},
                timeout=self._timeout,
            ) as response:
                return Answer(
                    response.status,
                    await response.read(),
                    response.headers.get("Content-Type", "application/octet-stream"),
                    {name: response.headers[name] for name in _TOLD_ON if name in response.headers},
                )
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
        begin_timeout_s: float | None = None,
        mounted_at: str = "",
        reads_only: bool = False,
    ) -> web.StreamResponse:
        """Pass a request on and stream the answer back; neither body is held in memory.

        ``body`` is the request's body if it was read already, ``content`` what stands between its stream and the
        server; an error of it ends both. The answer has to begin within ``begin_timeout_s``.
        ``before_answer`` is called when the server has answered and the caller has seen nothing of it yet.
        ``mounted_at`` is what the request's path has before that which the server knows. With ``reads_only`` a request
        whose caller leaves before its answer begins is taken back: some cost much until they are answered.
        Raises ``UpstreamUnavailableError`` if the server did not begin to answer.
        """
        headers = _forwarded(request)
        headers.update(self._secret)
        # Bytes of the target as the client sent them: decoding and encoding again could change their meaning.
        url = URL(self._base + request.raw_path.removeprefix(mounted_at), encoded=True)
        data: bytes | aiohttp.StreamReader | AsyncIterator[bytes] | None = (
            body if content is None else content
        )
        if data is None and request.can_read_body:
            data = request.content

        async def begin() -> aiohttp.ClientResponse:
            return await self._session.request(
                request.method,
                url,
                data=data,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeout.connect),
            )

        try:
            async with asyncio.timeout(begin_timeout_s):
                upstream = await (
                    while_wanted(begin(), lambda: _has_left(request)) if reads_only else begin()
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UpstreamUnavailableError(f"the {self.name} server does not answer") from error
        if upstream.content_type == "text/event-stream":
            self._endless.add(upstream)
        try:
            if before_answer is not None:
                before_answer()
            response = web.StreamResponse(status=upstream.status, reason=upstream.reason)
            response.headers.update(_end_to_end(upstream.headers))
            response.headers.update(extra_headers or {})
            if upstream.content_length is not None and request.method != "HEAD":
                response.content_length = upstream.content_length
            elif upstream.content_length is None and request.version >= (1, 1):
                response.enable_chunked_encoding()
            await response.prepare(request)
            async for chunk in upstream.content.iter_chunked(_CHUNK_BYTES):
                await response.write(chunk)
            await response.write_eof()
            return response
        except (aiohttp.ClientError, TimeoutError) as error:
            # The answer has begun: all that is left is to break the connection, so that the caller sees it.
            if request.transport is not None:
                request.transport.abort()
            raise asyncio.CancelledError from error
        finally:
            self._endless.discard(upstream)
            upstream.release()

    def end_streams(self) -> None:
        """Break off streams of events, which nothing else ends; their readers connect again elsewhere."""
        for upstream in list(self._endless):
            upstream.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


def _has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _forwarded(request: web.Request) -> CIMultiDict[str]:
    headers = CIMultiDict(_end_to_end(request.headers))
    peer = request.remote or ""
    known = request.headers.get("X-Forwarded-For")
    headers["X-Forwarded-For"] = f"{known}, {peer}" if known else peer
    headers.setdefault("X-Forwarded-Proto", request.scheme)
    headers.popall(TOKEN_HEADER, None)
    return headers


def _end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    named = {
        token.strip().lower() for value in headers.getall("Connection", ()) for token in value.split(",")
    }
    # A sender must not name what is for the server itself (RFC 9110, section 7.6.1): to drop that would change what
    # the request means, or whose it is.
    named -= _END_TO_END
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        lowered = name.lower()
        if lowered not in _HOP_BY_HOP and lowered not in named:
            kept.add(name, value)
    return kept
