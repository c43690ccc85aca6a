"""Artifact requests that are the MLflow server's to judge and to answer, within this server's own limits.

MLflow's server knows no limits of sizes and numbers, so they are kept here, on the way to it: the bytes of a body are
counted while they pass. What would go past the gateway (parts, signed uploads) cannot be counted and is refused as
by a store that does not know it; MLflow's client then sends the file through the server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol
from urllib.parse import quote

from aiohttp import web

from runstream.ingest.artifacts.errors import ArtifactError, ArtifactTooLargeError, UnsupportedError
from runstream.ingest.artifacts.protocol import ArtifactStore
from runstream.ingest.gateway.artifacts.limits import FileCounts
from runstream.ingest.gateway.artifacts.room import EACH_BYTES, Room
from runstream.ingest.gateway.artifacts.transfer import too_large
from runstream.ingest.gateway.http.caller import Caller
from runstream.ingest.gateway.http.server_mode import ServerMode
from runstream.schemas.mlflow.paths import ARTIFACTS_API

_LISTING = f"{ARTIFACTS_API}/artifacts"
_DEFAULT_WORKSPACE = "default"
_BOUNDLESS = Room()


class Answered(Protocol):
    """A whole answer of the MLflow server."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def body(self) -> bytes:
        """The whole body."""
        ...

    def response(self) -> web.Response:
        """The same answer, for the caller."""
        ...


# GETs a path of the MLflow server with these headers.
Ask = Callable[[str, Mapping[str, str]], Awaitable[Answered]]


class Relay(Protocol):
    """Passes a request on to the MLflow server; ``content`` is its body if not the request's own stream."""

    async def __call__(
        self, request: web.Request, *, content: AsyncIterator[bytes] | None = None
    ) -> web.StreamResponse:
        """The server's answer, streamed."""
        ...


class LimitedRelay:
    """A relay that keeps the limits: ``max_bytes`` of one artifact, ``counts`` of one owner's, ``room`` of the disk."""

    def __init__(
        self,
        relay: Relay,
        ask: Ask,
        *,
        max_bytes: int | None,
        counts: FileCounts,
        room: Room = _BOUNDLESS,
    ) -> None:
        self._room = room
        self._relay = relay
        self._ask = ask
        self._max_bytes = max_bytes
        self._counts = counts

    @property
    def limits(self) -> bool:
        """Whether there are any."""
        return self._max_bytes is not None or self._counts.limits

    async def plain(self, request: web.Request) -> web.StreamResponse:
        """Pass on what stores nothing."""
        return await self._relay(request)

    async def uncounted(self, request: web.Request, what: str) -> web.StreamResponse:
        """Pass on what lets a client store something past the gateway; raises ``UnsupportedError`` with limits."""
        if self.limits:
            raise UnsupportedError(what)
        return await self._relay(request)

    async def upload(
        self, request: web.Request, path: str | None, store: ArtifactStore
    ) -> web.StreamResponse:
        """Pass an upload on. ``path`` is its place in the store, ``None`` if that is not the store's.

        Raises ``ArtifactTooLargeError`` past a limit, and ``StoreUnavailableError`` where there is no room; what had
        been sent by then is dropped by the MLflow server.
        """
        limit = self._max_bytes
        if limit is not None and (request.content_length or 0) > limit:
            raise too_large(limit)
        self._room.check(request.content_length or 0)
        if path is not None and self._counts.limits:
            refused = await self._one_too_many(request, path, store)
            if refused is not None:
                return refused
        counted = _Counted(request, limit, self._room)
        # What is small is left to the relay, which can send it again.
        large = request.content_length is None or request.content_length > EACH_BYTES
        bounded = limit is not None or (large and self._room.folder is not None)
        content = aiter(counted) if bounded and request.can_read_body else None
        response = await self._relay(request, content=content)
        if counted.refusal is not None and not response.prepared:
            raise counted.refusal
        if path is not None and response.status < 300:
            self._counts.added(path)
        return response

    async def delete(self, request: web.Request, path: str | None) -> web.StreamResponse:
        """Pass a deletion on."""
        response = await self._relay(request)
        if path is not None:
            self._counts.forget(path)
        return response

    async def _one_too_many(
        self, request: web.Request, path: str, store: ArtifactStore
    ) -> web.Response | None:
        try:
            await self._counts.check(store, path)
        except ArtifactTooLargeError:
            # Whoever may not look there must not learn from this how much there is.
            caller = Caller.of(request)
            answer = await self._ask(f"{_LISTING}?path={quote(path, safe='')}", dict(caller.identity))
            if answer.status >= 400:
                return answer.response()
            raise
        return None


def scoped(path: str, caller: Caller, mode: ServerMode) -> str:
    """Where the MLflow server keeps an artifact of this path, as
    ``mlflow.server.handlers._get_workspace_scoped_repo_path_if_enabled`` (3.17)."""
    if mode is not ServerMode.WORKSPACES or caller.workspace in ("", _DEFAULT_WORKSPACE):
        return path
    return path if path.startswith("workspaces/") else f"workspaces/{caller.workspace}/{path}"


class _Counted:
    """A request's body that ends with an error, its ``refusal``, past the limit or where there is no room for it."""

    def __init__(self, request: web.Request, limit: int | None, room: Room) -> None:
        self._request = request
        self._limit = limit
        self._room = room
        self.refusal: ArtifactError | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        received = looked_at = 0
        async for block in self._request.content.iter_any():
            received += len(block)
            try:
                if self._limit is not None and received > self._limit:
                    raise too_large(self._limit)
                if received - looked_at >= EACH_BYTES:
                    self._room.check()
                    looked_at = received
            except ArtifactError as error:
                self.refusal = error
                raise
            yield block
