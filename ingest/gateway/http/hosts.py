"""Which Host headers the gateway's own routes serve.

Requests that name another host, or come from a page of any origin, are passed on to the MLflow server, whose own
rules (and answers) then hold: see ``mlflow.server.security_utils``.
"""

from __future__ import annotations

import fnmatch

from aiohttp import web

_LOCAL = ("localhost", "127.0.0.1", "[::1]", "0.0.0.0")
_PRIVATE = ("192.168.*", "10.*", *(f"172.{n}.*" for n in range(16, 32)), "fc00:*", "fd00:*")
_CACHE_ENTRIES = 1024


class HostRules:
    """MLflow's rule for Host headers. ``allowed`` is MLflow's comma-separated ``--allowed-hosts``."""

    def __init__(self, allowed: str | None) -> None:
        if allowed:
            self._patterns = tuple(pattern.strip() for pattern in allowed.split(","))
        else:
            with_port = tuple(f"{host.replace('[', '[[]', 1)}:*" for host in _LOCAL)
            self._patterns = (*_LOCAL, *with_port, *_PRIVATE)
        self._known: dict[str, bool] = {}

    def serves(self, request: web.Request) -> bool:
        """Whether a gateway route may answer this request by itself."""
        return "Origin" not in request.headers and self.allows(request.headers.get("Host", ""))

    def allows(self, host: str) -> bool:
        """Whether the rules allow this Host header; remembered, for a client sends the same one each time."""
        known = self._known.get(host)
        if known is None:
            if len(self._known) >= _CACHE_ENTRIES:
                self._known.clear()
            known = self._known[host] = self._matches(host)
        return known

    def _matches(self, host: str) -> bool:
        if not host:
            return False
        if "*" in self._patterns:
            return True
        return any(
            fnmatch.fnmatch(host, pattern) if "*" in pattern else host == pattern
            for pattern in self._patterns
        )
