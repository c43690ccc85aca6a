"""Which Host headers are served.

MLflow's rule (``mlflow.server.security_utils``), with one difference: its patterns for private addresses, such as
``10.*``, hold for addresses only. MLflow matches names with them too, and ``10.evil.example`` may be anybody's: a page
there could read and write through the browser of whoever opens it. Such names are refused on every path; requests
that name another unknown host, or come from a page of any origin, are passed on to the MLflow server, whose own rules
(and answers) then hold.
"""

from __future__ import annotations

import fnmatch
from ipaddress import ip_address

from aiohttp import web

INVALID_HOST = "Invalid Host header - possible DNS rebinding attack detected"
_LOCAL = ("localhost", "127.0.0.1", "[::1]", "0.0.0.0")
_PRIVATE = ("192.168.*", "10.*", *(f"172.{n}.*" for n in range(16, 32)), "fc00:*", "fd00:*")
_CACHE_ENTRIES = 1024


class HostRules:
    """MLflow's rule for Host headers. ``allowed`` is MLflow's comma-separated ``--allowed-hosts``."""

    def __init__(self, allowed: str | None) -> None:
        self._private: tuple[str, ...] = ()
        if allowed:
            self._patterns = tuple(pattern.strip() for pattern in allowed.split(","))
        else:
            with_port = tuple(f"{host.replace('[', '[[]', 1)}:*" for host in _LOCAL)
            self._patterns = (*_LOCAL, *with_port)
            self._private = _PRIVATE
        self._known: dict[str, bool] = {}

    def serves(self, request: web.Request, *, own_page: bool = False) -> bool:
        """Whether a gateway route may answer this request by itself; with ``own_page``, one of a page that this very
        host has served as well."""
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        return self.allows(host) and (origin is None or (own_page and origin.partition("://")[2] == host))

    def allows(self, host: str) -> bool:
        """Whether the rules allow this Host header; remembered, for a client sends the same one each time."""
        known = self._known.get(host)
        if known is None:
            if len(self._known) >= _CACHE_ENTRIES:
                self._known.clear()
            known = self._known[host] = self._matches(host)
        return known

    def allows_probe(self, host: str) -> bool:
        """The rule for probes, which also call an address by its number, whatever ``allowed`` says: no name leads
        there, so nobody else's name can."""
        return self.allows(host) or _is_address(host) or host.partition(":")[0] == "localhost"

    def refuses(self, host: str) -> bool:
        """Whether nobody must serve this host: MLflow's server would, taking a name for a private address."""
        return not self.allows(host) and _matches(host, self._private)

    def _matches(self, host: str) -> bool:
        if not host:
            return False
        if "*" in self._patterns or _matches(host, self._patterns):
            return True
        return _matches(host, self._private) and _is_address(host)


def _matches(host: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(host, pattern) if "*" in pattern else host == pattern for pattern in patterns)


def _is_address(host: str) -> bool:
    """Whether this is an IP address, with or without a port."""
    if host.startswith("["):
        host, _, port = host[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = host.partition(":") if host.count(":") == 1 else (host, "", "")
    try:
        ip_address(host)
    except ValueError:
        return False
    return not port or (port.isascii() and port.isdigit())
