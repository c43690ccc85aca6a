"""Only processes of Runstream's own may ask: they share a secret, which every request has to carry."""

from __future__ import annotations

import hmac

from aiohttp import web
from aiohttp.typedefs import Middleware

from runstream.query.http.errors import Handler
from runstream.schemas.errors import MlflowError
from runstream.schemas.wire import TOKEN_HEADER

# What says nothing of anybody's data, for probes and Prometheus.
_FOR_ANYBODY = frozenset(("/health", "/ready", "/metrics"))


def carries(request: web.Request, token: str) -> bool:
    """Whether a request carries the secret. An empty one would let anybody in, so it lets in nobody."""
    # A header may hold any bytes, which aiohttp keeps as surrogates.
    given = request.headers.get(TOKEN_HEADER, "").encode(errors="surrogateescape")
    return bool(token) and hmac.compare_digest(given, token.encode())


def roles_only(token: str) -> Middleware:
    """A middleware that refuses everybody else, on every route but the probes'."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in _FOR_ANYBODY and not carries(request, token):
            raise MlflowError(
                "This is a part of Runstream behind its gateway; ask the gateway", "PERMISSION_DENIED"
            )
        return await handler(request)

    return guard
