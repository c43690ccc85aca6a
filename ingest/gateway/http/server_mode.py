"""Whether the MLflow server behind decides who may see what: learnt from the server itself.

What a request carries says nothing about that: a caller may leave out a header, and a server with workspaces or users
then still has an answer of its own. So the server is asked, again and again, how it is set up (``server-info``, which
MLflow answers without login) and whether it answers somebody without credentials.
"""

from __future__ import annotations

import asyncio
import enum
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from runstream.ingest.gateway.http.upstream import UpstreamUnavailableError

SERVER_INFO = "/api/3.0/mlflow/server-info"
# Answered to anybody where nobody is told apart from others.
_ANYBODY = "/api/2.0/mlflow/experiments/search?max_results=1"
# A server that starts again may be set up differently: while it is away, it is looked for often.
_AWAY_INTERVAL_S = 0.5


class ServerMode(enum.Enum):
    """How the MLflow server decides about its callers."""

    OPEN = "open"
    """Everybody sees everything: there is nothing to ask."""
    USERS = "users"
    """It knows users, and is not known to be MLflow's own basic-auth."""
    BASIC_AUTH = "basic-auth"
    """MLflow's ``--app-name basic-auth``."""
    WORKSPACES = "workspaces"
    """MLflow's ``--enable-workspaces``, whether or not it knows users as well."""
    UNKNOWN = "unknown"
    """It has not answered yet: nothing may be taken for open."""


class _Answer(Protocol):
    @property
    def status(self) -> int: ...

    @property
    def body(self) -> bytes: ...


Get = Callable[[str, Mapping[str, str]], Awaitable[_Answer]]


class ModeWatch:
    """Keeps ``mode`` true: a server that starts again in another mode is noticed within ``interval_s``.

    ``get`` asks the MLflow server. ``basic_auth`` is what the operator has said of it. Run ``watch`` as long as the
    gateway lives; what an answer does not say is not assumed, and while there is none the last mode holds.
    """

    def __init__(self, get: Get, *, basic_auth: bool, interval_s: float = 10.0) -> None:
        self._get = get
        self._basic_auth = basic_auth
        self._interval_s = interval_s
        self.mode = ServerMode.UNKNOWN
        # What it said of itself; MLflow's client asks for that before it begins.
        self.info: bytes | None = None
        self.is_away = False
        """Whether there was no answer when it was last asked."""

    async def settled(self) -> ServerMode:
        """The mode; asks now if there was no answer yet."""
        if self.mode is ServerMode.UNKNOWN:
            await self.look()
        return self.mode

    async def watch(self) -> None:
        """Ask until cancelled."""
        while True:
            said = await self.look()
            await asyncio.sleep(self._interval_s if said else _AWAY_INTERVAL_S)

    async def look(self) -> bool:
        """Ask once; whether there was an answer that says something."""
        try:
            mode = await self._ask()
        except UpstreamUnavailableError:
            mode = None
        self.is_away = mode is None
        if mode is None:
            return False
        self.mode = mode
        return True

    async def _ask(self) -> ServerMode | None:
        info = await self._get(SERVER_INFO, {})
        if info.status >= 500:
            return None
        self.info = info.body if info.status == 200 else None
        if _workspaces(info):
            return ServerMode.WORKSPACES
        if self._basic_auth:
            return ServerMode.BASIC_AUTH
        anybody = await self._get(_ANYBODY, {})
        if anybody.status >= 500:
            return None
        return ServerMode.OPEN if info.status == anybody.status == 200 else ServerMode.USERS


def _workspaces(info: _Answer) -> bool:
    try:
        said = json.loads(info.body)
    except ValueError:
        return False
    return isinstance(said, dict) and bool(said.get("workspaces_enabled"))
