"""What a relay passes on, header by header and chunk by chunk."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from runstream.schemas.errors import MlflowError
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


@contextlib.asynccontextmanager
async def client_moves(stall_s: float) -> AsyncIterator[None]:
    """Reading a request's body; raises ``MlflowError`` (REQUEST_TIMEOUT) if that takes longer."""
    try:
        async with asyncio.timeout(stall_s):
            yield
    except TimeoutError:
        raise MlflowError("The request's body did not arrive in time", "REQUEST_TIMEOUT") from None


async def moving(
    chunks: AsyncIterator[bytes], stall_s: float, moved: Callable[[], None] = lambda: None
) -> AsyncIterator[bytes]:
    """The same chunks; raises ``TimeoutError`` where the next does not come within ``stall_s``. ``moved`` is told."""
    while True:
        async with asyncio.timeout(stall_s):
            chunk = await anext(chunks, None)
        if chunk is None:
            return
        moved()
        yield chunk


async def single(chunk: bytes) -> AsyncIterator[bytes]:
    """Chunks of which there is one."""
    yield chunk


def forwarded(request: web.Request) -> CIMultiDict[str]:
    """The headers of a request that go on to the server behind, without Runstream's secret."""
    headers = CIMultiDict(end_to_end(request.headers))
    peer = request.remote or ""
    known = request.headers.get("X-Forwarded-For")
    headers["X-Forwarded-For"] = f"{known}, {peer}" if known else peer
    headers.setdefault("X-Forwarded-Proto", request.scheme)
    headers.popall(TOKEN_HEADER, None)
    return headers


def end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Those that are not for one connection alone."""
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
