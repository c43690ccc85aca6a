"""Bodies of requests, as the types that describe them."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from aiohttp import web

from runstream.schemas.errors import MlflowError

T = TypeVar("T")


async def decode(request: web.Request, kind: type[T]) -> T:
    """The body as a request. Raises ``MlflowError`` that says what is wrong with it."""
    content_type = request.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if content_type != "application/json":
        raise MlflowError("Content-Type must be application/json", "UNSUPPORTED_MEDIA_TYPE")
    body: Any = await request.read()
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MlflowError(f"Bad request: {error}") from error
