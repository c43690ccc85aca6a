"""MLflow's artifact proxy, ``mlflow-artifacts``, served by the gateway itself.

Uploads and downloads are streamed at the pace of the slower side. Requests that these routes do not understand
better than MLflow's own server (other methods, pages of other origins) are relayed to it, within this server's limits:
it has the same store as its artifacts destination. So is everything where that server tells callers apart in a way
of its own (workspaces, users): it is the server's mode that decides, not what a request carries.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import posixpath
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal, TypeVar

from aiohttp import web

from runstream.ingest.artifacts import paths
from runstream.ingest.artifacts.errors import (
    ArtifactTooLargeError,
    InvalidPathError,
    StoreUnavailableError,
    UnsupportedError,
)
from runstream.ingest.artifacts.protocol import ArtifactStore, StoreOptions, UploadedPart
from runstream.ingest.artifacts.store import open_store
from runstream.ingest.gateway.artifacts import responses
from runstream.ingest.gateway.artifacts.budget import TransferBudget, Turn
from runstream.ingest.gateway.artifacts.config import ArtifactConfig
from runstream.ingest.gateway.artifacts.limits import FileCounts
from runstream.ingest.gateway.artifacts.relay import Ask, LimitedRelay, Relay, scoped
from runstream.ingest.gateway.artifacts.room import Room
from runstream.ingest.gateway.artifacts.telemetry import ArtifactTelemetry
from runstream.ingest.gateway.artifacts.transfer import Body, Yield, send, too_large
from runstream.ingest.gateway.http.caller import Caller
from runstream.ingest.gateway.http.holding import Holding
from runstream.ingest.gateway.http.hosts import HostRules
from runstream.ingest.gateway.http.server_mode import ModeWatch, ServerMode
from runstream.schemas.errors import MlflowError, RunstreamError
from runstream.schemas.mlflow.paths import ARTIFACTS_APIS

_log = logging.getLogger(__name__)
T = TypeVar("T")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# What a route is about: a directory that the query names, an artifact that the path names, an address of MLflow's web
# page, or the server itself. It comes with the route: the end of a path is the caller's to choose.
Subject = Literal["directory", "artifact", "page", "server"]
# Asks whether the caller may do this; an answer other than None refuses.
Authorize = Callable[[web.Request, Subject], Awaitable[web.StreamResponse | None]]
# Passes a request on to the MLflow server, within the limits.
PassOn = Callable[[web.Request], Awaitable[web.StreamResponse]]

_DOWNLOAD_BYTES = 4 << 20
_MAX_PARTS = 10_000
_MAX_JSON_BYTES = 4 << 20
_NO_PARTS = "Multipart upload is not supported for the current artifact repository"
_NO_SIGNING = "Multipart download is not supported for the current artifact repository"


async def at_once(_: int) -> None:
    """A ``Yield`` that never waits."""


class ArtifactRoutes:
    """Handlers of one gateway process. ``relay`` passes a request on to the MLflow server, ``ask`` GETs a path of it,
    and ``server`` knows how it decides about callers; ``authorize`` asks it for a verdict where it is basic-auth."""

    def __init__(
        self,
        config: ArtifactConfig,
        *,
        relay: Relay,
        ask: Ask,
        server: ModeWatch,
        hosts: HostRules,
        telemetry: ArtifactTelemetry,
        authorize: Authorize,
        give_way: Yield = at_once,
        holding: Holding | None = None,
    ) -> None:
        self._config = config
        self._room = Room(config.shared_disk, config.keep_free_bytes)
        self._server = server
        self._hosts = hosts
        self._telemetry = telemetry
        self._authorize = authorize
        self._give_way = give_way
        self._line = holding.line() if holding is not None else None
        self._store: ArtifactStore | None = None
        # Of one direction what the other leaves alone: neither can keep the other waiting.
        self._down, self._up = (
            TransferBudget(
                config.transfer_memory_bytes // 2, max_waiting=config.max_waiting, wait_s=config.wait_s
            )
            for _ in range(2)
        )
        self._counts = FileCounts(config.max_files)
        self.relayed = LimitedRelay(
            relay, ask, max_bytes=config.max_bytes, counts=self._counts, room=self._room
        )

    @property
    def store(self) -> ArtifactStore:
        """The open store; there is one between the application's start and its end."""
        assert self._store is not None
        return self._store

    def add_to(self, app: web.Application, prefix: str) -> None:
        """Mount the routes, before any that takes every path. The store opens when the application starts, which
        fails with ``ConfigError`` if it cannot be used."""
        app.cleanup_ctx.append(self._life)
        # MLflow's server answers the first two routes also without its static prefix.
        for base in {f"{one}{api}" for api in ARTIFACTS_APIS for one in ("", prefix)}:
            add = app.router.add_route
            add("GET", f"{base}/artifacts", self.guarded("list", self._list, subject="directory"))
            add("GET", f"{base}/artifacts/{{path:.+}}", self.guarded("download", self._download))
            add("HEAD", f"{base}/artifacts/{{path:.+}}", self.guarded("download", self._download))
            put = self.guarded("upload", self._upload, pass_on=self._pass_upload)
            delete = self.guarded("delete", self._delete, pass_on=self._pass_delete, relayed_to_users=True)
            create = self.guarded("parts", self._create_parts, pass_on=self._pass_parts)
            complete = self.guarded("parts", self._complete_parts, pass_on=self._pass_parts)
            add("PUT", f"{base}/artifacts/{{path:.*}}", put)
            add("DELETE", f"{base}/artifacts/{{path:.+}}", delete)
            add("POST", f"{base}/mpu/create/{{path:.+}}", create)
            add("POST", f"{base}/mpu/complete/{{path:.+}}", complete)
            add("POST", f"{base}/mpu/abort/{{path:.+}}", self.guarded("parts", self._abort_parts))
            add("GET", f"{base}/presigned/{{path:.+}}", self.guarded("presigned", self._presigned))

    async def _life(self, _: web.Application) -> AsyncIterator[None]:
        config = self._config
        self._store = await open_store(
            config.url,
            StoreOptions(
                stall_s=config.stall_s,
                part_bytes=config.part_bytes,
                parts_under_way=config.parts_under_way,
                direct=config.direct,
                public_endpoint=config.public_endpoint,
            ),
        )
        yield
        await self._store.close()

    def guarded(
        self,
        route: str,
        handler: Handler,
        *,
        pass_on: PassOn | None = None,
        subject: Subject = "artifact",
        relayed_to_users: bool = False,
        detail: bool = True,
    ) -> Handler:
        """A handler behind the rules that all artifact routes share. ``detail`` as in ``artifact_answers``.

        ``pass_on`` is how a request gets to the MLflow server where that has to answer it, and ``relayed_to_users``
        says that basic-auth cannot be asked for this without doing it.
        """
        pass_on = pass_on or self.relayed.plain

        async def guard(request: web.Request) -> web.StreamResponse:
            mode = await self._server.settled()
            ours = (
                self._hosts.serves(request)
                and not Caller.of(request).workspace
                and (mode is ServerMode.OPEN or (mode is ServerMode.BASIC_AUTH and not relayed_to_users))
            )
            try:
                if not ours:
                    return await pass_on(request)
                if mode is ServerMode.BASIC_AUTH:
                    refused = await self._authorize(request, subject)
                    if refused is not None:
                        return refused
                response = await handler(request)
            except RunstreamError as error:
                if self._line is not None and isinstance(error, StoreUnavailableError) and error.nothing_done:
                    self._line.failed(error)  # which says for how long
                response = responses.of_error(error, self._config.retry_after_s, detail=detail)
            except (asyncio.CancelledError, web.HTTPException, ConnectionResetError):
                raise
            except Exception:
                _log.exception("an artifact request failed", extra={"route": route})
                response = responses.of_json(
                    {"error_code": "INTERNAL_ERROR", "message": "the artifact request failed"}, 500
                )
            self._telemetry.answered(route, response.status)
            return response

        return guard

    async def held(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of something that the store can be asked twice; it waits while the store is away."""
        return await attempt() if self._line is None else await self._line.run(attempt)

    async def download(self, request: web.Request, path: str) -> web.StreamResponse:
        """Stream an object to the client."""
        turn = Turn(self._config.stall_s)
        held = self._down.hold(_DOWNLOAD_BYTES, Caller.of(request), turn)
        async with held, contextlib.AsyncExitStack() as stack:
            reader = await self.held(lambda: stack.enter_async_context(self.store.open(path)))
            return await send(
                request,
                path,
                reader,
                turn=turn,
                give_way=self._give_way,
                telemetry=self._telemetry,
            )

    async def upload(self, request: web.Request, path: str, max_bytes: int | None) -> None:
        """Stream the request's body to the store; returns when it is stored."""
        size = request.content_length
        if max_bytes is not None and size is not None and size > max_bytes:
            raise too_large(max_bytes)
        self._room.check(size or 0)
        await self._counts.check(self.store, path)
        turn = Turn(self._config.stall_s)
        body = Body(request, max_bytes=max_bytes, turn=turn, give_way=self._give_way, room=self._room)
        # What is here already needs nothing that others could be waiting for.
        need = 0 if await body.begun() else self.store.upload_bytes(size)
        async with self._up.hold(need, Caller.of(request), turn):
            self._telemetry.began("up")
            try:
                await self.store.put(path, body, size=size)
            finally:
                self._telemetry.ended("up", body.received)
        self._counts.added(path)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        path = paths.canonical(request.query.get("path", ""))
        entries = await self.held(lambda: self.store.entries(path, max_entries=self._config.max_list_entries))
        return responses.of_json(responses.listing(entries))

    async def _download(self, request: web.Request) -> web.StreamResponse:
        return await self.download(request, paths.canonical(raw_path(request)))

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        await self.upload(request, paths.destination(raw_path(request)), self._config.max_bytes)
        return responses.empty()

    async def _pass_upload(self, request: web.Request) -> web.StreamResponse:
        return await self.relayed.upload(request, self._stored_at(request), self.store)

    async def _pass_delete(self, request: web.Request) -> web.StreamResponse:
        return await self.relayed.delete(request, self._stored_at(request))

    async def _pass_parts(self, request: web.Request) -> web.StreamResponse:
        return await self.relayed.uncounted(request, _NO_PARTS)

    def _stored_at(self, request: web.Request) -> str | None:
        """Where the MLflow server keeps what this path names; ``None`` if it will refuse the path."""
        try:
            path = paths.canonical(raw_path(request))
        except InvalidPathError:
            return None
        return scoped(path, Caller.of(request), self._server.mode)

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        path = paths.canonical(raw_path(request))
        await self.held(lambda: self.store.delete(path))
        self._counts.forget(path)
        return responses.of_json({})

    async def _create_parts(self, request: web.Request) -> web.StreamResponse:
        fields = await _fields(request, "path")
        path = _part_path(request, fields)
        count = _integer(fields.get("num_parts", fields.get("numParts", 1)), "num_parts")
        if not self.store.takes_parts:
            raise UnsupportedError(_NO_PARTS)
        if not 1 <= count <= _MAX_PARTS:
            raise MlflowError(f"num_parts must be between 1 and {_MAX_PARTS}, not {count}")
        await self._counts.check(self.store, path)
        upload_id, urls = await self.store.create_parts(path, count)
        credentials = [{"url": url, "part_number": number} for number, url in enumerate(urls, 1)]
        return responses.of_json({"upload_id": upload_id, "credentials": credentials})

    async def _complete_parts(self, request: web.Request) -> web.StreamResponse:
        fields = await _fields(request, "path", "parts")
        path = _part_path(request, fields)
        if not self.store.takes_parts:
            raise UnsupportedError(_NO_PARTS)
        try:
            await self.store.complete_parts(path, _upload_id(fields), _parts(fields["parts"]))
        except StoreUnavailableError as error:
            error.nothing_done = False  # the store may have put the object together all the same
            raise
        limit = self._config.max_bytes
        if limit is not None and (await self.store.stat(path)).size > limit:
            # Its size could not be known before: the client sent the parts past the gateway.
            await self.store.delete(path)
            raise too_large(limit)
        self._counts.added(path)
        return responses.of_json({})

    async def _abort_parts(self, request: web.Request) -> web.StreamResponse:
        fields = await _fields(request, "path")
        path = _part_path(request, fields)
        if not self.store.takes_parts:
            raise UnsupportedError(_NO_PARTS)
        await self.store.abort_parts(path, _upload_id(fields))
        return responses.of_json({})

    async def _presigned(self, request: web.Request) -> web.StreamResponse:
        path = paths.canonical(raw_path(request))
        if not self.store.signs_downloads:
            raise UnsupportedError(_NO_SIGNING)
        url, size = await self.held(lambda: self.store.sign_download(path, expires_s=self._config.sign_ttl_s))
        return responses.of_json({"url": url, "headers": {}, "file_size": size})


def raw_path(request: web.Request) -> str:
    """The artifact's path as the client sent it, escaped: aiohttp's own decoding keeps some escapes, and all
    decoding belongs in one place."""
    below = request.rel_url.raw_path.partition("/mlflow-artifacts/")[2]
    kind, _, path = below.partition("/")
    return path.partition("/")[2] if kind == "mpu" else path


async def _fields(request: web.Request, *required: str) -> dict[str, Any]:
    """The JSON body, with MLflow's words for what is missing."""
    if (request.content_length or 0) > _MAX_JSON_BYTES:
        raise ArtifactTooLargeError("The request body is too large")
    try:
        fields = json.loads(await request.read() or b"{}")
    except (ValueError, RecursionError) as error:
        raise MlflowError("The request body is not JSON") from error
    if not isinstance(fields, dict):
        raise MlflowError("The request body is not a JSON object")
    for name in required:
        if fields.get(name) in (None, "", []):
            raise MlflowError(
                f"Missing value for required parameter '{name}'. "
                "See the API docs for more information about request parameters."
            )
    return fields


def _part_path(request: web.Request, fields: dict[str, Any]) -> str:
    name = fields["path"]
    if not isinstance(name, str):
        raise MlflowError(f"Invalid value {name} for parameter 'path' supplied.")
    # The client sends the path of its local file; MLflow's stores keep its last name.
    return paths.destination(posixpath.join(raw_path(request), posixpath.basename(name)))


def _upload_id(fields: dict[str, Any]) -> str:
    value = fields.get("upload_id", fields.get("uploadId"))
    if not isinstance(value, str) or not value:
        raise MlflowError("Missing value for required parameter 'upload_id'.")
    return value


def _parts(items: Any) -> list[UploadedPart]:
    if not isinstance(items, list) or len(items) > _MAX_PARTS:
        raise MlflowError("Invalid value for parameter 'parts' supplied.")
    parts = []
    for item in items:
        if not isinstance(item, dict):
            raise MlflowError("Invalid value for parameter 'parts' supplied.")
        number = _integer(item.get("part_number", item.get("partNumber")), "part_number")
        parts.append(UploadedPart(number, str(item.get("etag", "")), str(item.get("url", ""))))
    return parts


def _integer(value: Any, name: str) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return int(value)
    except (TypeError, ValueError) as error:
        raise MlflowError(f"Invalid value for parameter '{name}' supplied: it must be an integer.") from error
