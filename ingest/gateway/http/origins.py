"""Which pages of other origins may use Runstream's own API, and what browsers have to be told.

The rule and the words are MLflow's (``mlflow.server.fastapi_security``): pages of this machine, and those of
``--cors-allowed-origins``. Others get an error for every method here, where MLflow lets them send, but not read, GETs.
"""

from __future__ import annotations

import fnmatch
import re
from urllib.parse import urlsplit

from aiohttp import web

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_LOCAL_ORIGIN = re.compile(r"http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?")
_METHODS = "GET, POST, PUT, DELETE, OPTIONS, PATCH"
_MAX_AGE_S = "600"


class Origins:
    """``allowed`` is MLflow's comma-separated ``--cors-allowed-origins``."""

    def __init__(self, allowed: str | None) -> None:
        self._allowed = tuple(origin.strip() for origin in allowed.split(",")) if allowed else ()
        self._all = "*" in self._allowed

    def lets_in(self, request: web.Request) -> bool:
        """Whether a request comes from no page, from one of this server, or from one that may use it."""
        origin = request.headers.get("Origin")
        if origin is None or self._all or origin.partition("://")[2] == request.headers.get("Host"):
            return True
        return _host_of(origin) in _LOCAL_HOSTS or any(
            fnmatch.fnmatch(origin, allowed) if "*" in allowed else origin == allowed
            for allowed in self._allowed
        )

    def headers(self, request: web.Request) -> dict[str, str]:
        """What an answer has to say so that the page may read it; empty if no page asks."""
        origin = request.headers.get("Origin")
        if origin is None:
            return {}
        if self._all:
            return {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "*"}
        headers = {
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Expose-Headers": "*",
            "Vary": "Origin",
        }
        if self._tells(origin):
            headers["Access-Control-Allow-Origin"] = origin
        return headers

    def preflight(self, request: web.Request) -> web.Response | None:
        """The answer to a browser that asks before it sends; ``None`` if this is no such question."""
        headers = request.headers
        if request.method != "OPTIONS" or "Access-Control-Request-Method" not in headers:
            return None
        if "Origin" not in headers:
            return None
        told = self.headers(request)
        told.pop("Access-Control-Expose-Headers")
        told |= {"Access-Control-Allow-Methods": _METHODS, "Access-Control-Max-Age": _MAX_AGE_S}
        if asked := headers.get("Access-Control-Request-Headers"):
            told["Access-Control-Allow-Headers"] = asked
        if "Access-Control-Allow-Origin" in told:
            return web.Response(text="OK", headers=told)
        return web.Response(status=400, text="Disallowed CORS origin", headers=told)

    def _tells(self, origin: str) -> bool:
        return _LOCAL_ORIGIN.fullmatch(origin) is not None or origin in self._allowed


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).hostname
    except ValueError:
        return None
