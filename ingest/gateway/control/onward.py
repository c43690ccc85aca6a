"""Whole requests passed on to MLflow's server."""

from __future__ import annotations

from runstream.ingest.gateway.http.handling import Call, Outcome
from runstream.ingest.gateway.http.upstream import Answer, Upstream
from runstream.schemas.wire import TOKEN_HEADER

# What belongs to the connection, and to a body that is decoded now.
_LEFT_OUT = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "te",
        "upgrade",
        "host",
        "content-length",
        "content-encoding",
        "accept-encoding",
        "expect",
        TOKEN_HEADER.lower(),
    )
)


class Onward:
    """``path`` is below MLflow's root, without the static prefix."""

    def __init__(self, tracking: Upstream) -> None:
        self._tracking = tracking

    async def post(self, path: str, call: Call) -> Outcome:
        """The answer of MLflow's server. Raises ``UpstreamUnavailableError``."""
        return _outcome(
            await self._tracking.deliver("POST", _with_query(path, call), call.body, _headers(call))
        )

    async def get(self, path: str, call: Call) -> Outcome:
        """The answer of MLflow's server. Raises ``UpstreamUnavailableError``."""
        return _outcome(await self._tracking.deliver("GET", _with_query(path, call), None, _headers(call)))


def _with_query(path: str, call: Call) -> str:
    return f"{path}?{call.query}" if call.query else path


def _headers(call: Call) -> dict[str, str]:
    return {name: value for name, value in call.headers.items() if name not in _LEFT_OUT}


def _outcome(answer: Answer) -> Outcome:
    headers = {"Content-Type": answer.content_type, "X-Content-Type-Options": "nosniff", **answer.headers}
    return Outcome(answer.status, headers, answer.body)
