"""Artifacts by run, logged model or model version: the addresses that MLflow's web page uses.

Where the artifacts of a run lie is known to the MLflow server, which is asked with the caller's own headers: its
refusal is the answer. Whatever does not lie below the proxy's root is relayed to it whole.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from aiohttp import web

from runstream.ingest.artifacts import paths
from runstream.ingest.artifacts.errors import InvalidPathError, NotAFileError
from runstream.ingest.gateway.artifacts import responses
from runstream.ingest.gateway.artifacts.config import ArtifactConfig
from runstream.ingest.gateway.artifacts.relay import Answered, Ask
from runstream.ingest.gateway.artifacts.routes import ArtifactRoutes, PassOn, Subject
from runstream.ingest.gateway.http.caller import Caller
from runstream.schemas.errors import MlflowError
from runstream.schemas.mlflow.paths import APIS

_INFOS = ("/api/3.0/mlflow/server-info", "/ajax-api/3.0/mlflow/server-info")
_PROXY_ANCHOR = "/api/2.0/mlflow-artifacts/artifacts/"
# mlflow.server.handlers.upload_artifact_handler
_MAX_PAGE_UPLOAD = 10 << 20
_NO_SIGNED_UPLOAD = "Presigned upload is not supported for the current artifact repository"


class _Elsewhere(Exception):
    """The artifacts do not lie below the proxy's root."""


class _Refused(Exception):
    def __init__(self, answer: Answered) -> None:
        super().__init__(f"refused with {answer.status}")
        self.answer = answer


class ArtifactPages:
    """Handlers of one gateway process, on the store of ``routes``."""

    def __init__(self, routes: ArtifactRoutes, config: ArtifactConfig, *, ask: Ask) -> None:
        self._routes = routes
        self._relayed = routes.relayed
        self._ask = ask
        self._max_list_entries = config.max_list_entries
        limit = config.max_bytes
        self._max_upload_bytes = _MAX_PAGE_UPLOAD if limit is None else min(limit, _MAX_PAGE_UPLOAD)

    def add_to(self, app: web.Application, prefix: str) -> None:
        """Mount the routes, before any that takes every path."""
        add = app.router.add_route
        add("GET", f"{prefix}/get-artifact", self._guarded("download", self._of_run))
        add("GET", f"{prefix}/model-versions/get-artifact", self._guarded("download", self._of_version))
        upload = self._guarded("upload", self._upload, pass_on=self._pass_upload)
        add("POST", f"{prefix}/ajax-api/2.0/mlflow/upload-artifact", upload)
        model = f"{prefix}/ajax-api/2.0/mlflow/logged-models/{{model_id}}/artifacts/files"
        add("GET", model, self._guarded("download", self._of_model))
        for api in APIS:
            add("GET", f"{prefix}{api}/artifacts/list", self._guarded("list", self._list))
            signed = f"{prefix}{api}/artifacts/presigned-upload-url"
            add("POST", signed, self._guarded("parts", self._sign_upload, pass_on=self._sign_upload))
        for info in _INFOS:
            add(
                "GET",
                f"{prefix}{info}",
                self._guarded("info", self._server_info, pass_on=self._their_info, subject="server"),
            )

    def _guarded(
        self,
        route: str,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
        *,
        pass_on: PassOn | None = None,
        subject: Subject = "page",
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def resolved(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except _Elsewhere:
                return await (pass_on or self._relayed.plain)(request)
            except _Refused as refusal:
                response = refusal.answer.response()
                response.headers.update(responses.SECURITY_HEADERS)
                return response

        return self._routes.guarded(
            route,
            resolved,
            pass_on=pass_on,
            subject=subject,
            relayed_to_users=subject == "page",
            detail=False,
        )

    async def _of_run(self, request: web.Request) -> web.StreamResponse:
        path = paths.canonical(_argument(request, "path"))
        return await self._routes.download(request, paths.join(await self._run_root(request), path))

    async def _of_version(self, request: web.Request) -> web.StreamResponse:
        path = paths.canonical(_argument(request, "path"))
        query = urlencode({"name": _argument(request, "name"), "version": _argument(request, "version")})
        found = await self._get(request, f"/api/2.0/mlflow/model-versions/get-download-uri?{query}")
        root = await self._model_root(request, str(found.get("artifact_uri")))
        return await self._routes.download(request, paths.join(root, path))

    async def _of_model(self, request: web.Request) -> web.StreamResponse:
        path = paths.canonical(_argument(request, "artifact_file_path"))
        root = _root(await self._model_uri(request, request.match_info["model_id"]))
        return await self._routes.download(request, paths.join(root, path))

    async def _list(self, request: web.Request) -> web.StreamResponse:
        below = paths.canonical(request.query.get("path", ""))
        uri = await self._run_uri(request)
        path = paths.join(_root(uri), below)
        entries = await self._routes.held(
            lambda: self._routes.store.entries(path, max_entries=self._max_list_entries)
        )
        return responses.of_json(responses.listing(entries, below=below, root_uri=uri))

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        if not request.query.get("run_uuid"):
            raise _Elsewhere  # what else may name the run depends on MLflow's version
        if not request.query.get("path"):
            raise MlflowError("Request must specify path.")
        path = paths.destination(request.query["path"])
        if (request.content_length or 0) > _MAX_PAGE_UPLOAD:
            raise MlflowError("Artifact size is too large. Max size is 10MB.")
        if not request.can_read_body:
            raise MlflowError("Request must specify data.")
        root = await self._run_root(request)
        if not root:
            raise NotAFileError("the run's artifacts have no directory of their own")
        await self._routes.upload(request, posixpath.join(root, path), self._max_upload_bytes)
        return web.Response(headers={"Content-Type": responses.JSON, **responses.SECURITY_HEADERS})

    async def _pass_upload(self, request: web.Request) -> web.StreamResponse:
        path: str | None = None
        if self._relayed.limits:
            try:
                path = posixpath.join(
                    await self._run_root(request), paths.canonical(request.query.get("path", ""))
                )
            except (_Elsewhere, InvalidPathError):
                pass  # not in this store, or for the MLflow server to refuse
            except _Refused as refusal:
                return refusal.answer.response()
        return await self._relayed.upload(request, path, self._routes.store)

    async def _sign_upload(self, request: web.Request) -> web.StreamResponse:
        return await self._relayed.uncounted(request, _NO_SIGNED_UPLOAD)

    async def _their_info(self, request: web.Request) -> web.StreamResponse:
        """What the MLflow server says of itself, where it moves artifacts by itself."""
        if not self._relayed.limits:
            return await self._relayed.plain(request)
        try:
            info = await self._get(request, _INFOS[0])
        except (_Elsewhere, _Refused):
            return await self._relayed.plain(request)
        info["multipart_uploads_enabled"] = False
        return responses.of_json(info)

    async def _server_info(self, request: web.Request) -> web.StreamResponse:
        """What the MLflow server says of itself, with what this gateway's store can do."""
        info = await self._get(request, _INFOS[0])
        store = self._routes.store
        info["multipart_uploads_enabled"] = store.takes_parts
        info["multipart_downloads_enabled"] = store.signs_downloads
        return responses.of_json(info)

    async def _model_root(self, request: web.Request, uri: str) -> str:
        """The root of a model version's artifacts, which may be given by its run or its logged model."""
        if uri.startswith("runs:/"):
            run_id, _, below = uri.removeprefix("runs:/").partition("/")
            return paths.join(_root(await self._uri_of_run(request, run_id)), paths.canonical(below))
        if uri.startswith("models:/m-") and "/" not in uri.removeprefix("models:/"):
            return _root(await self._model_uri(request, uri.removeprefix("models:/")))
        return _root(uri)

    async def _model_uri(self, request: web.Request, model_id: str) -> str:
        found = await self._get(request, f"/api/2.0/mlflow/logged-models/{quote(model_id, safe='')}")
        try:
            return str(found["model"]["info"]["artifact_uri"])
        except (KeyError, TypeError):
            raise _Elsewhere from None

    async def _run_root(self, request: web.Request) -> str:
        return _root(await self._run_uri(request))

    async def _run_uri(self, request: web.Request) -> str:
        run_id = request.query.get("run_id") or request.query.get("run_uuid")
        if not run_id:
            raise _Elsewhere
        return await self._uri_of_run(request, run_id)

    async def _uri_of_run(self, request: web.Request, run_id: str) -> str:
        found = await self._get(request, f"/api/2.0/mlflow/runs/get?{urlencode({'run_id': run_id})}")
        try:
            return str(found["run"]["info"]["artifact_uri"])
        except (KeyError, TypeError):
            raise _Elsewhere from None

    async def _get(self, request: web.Request, path: str) -> dict[str, Any]:
        answer = await self._ask(path, dict(Caller.of(request).identity))
        if answer.status != 200:
            raise _Refused(answer)
        try:
            found = json.loads(answer.body)
        except ValueError:
            raise _Elsewhere from None
        if not isinstance(found, dict):
            raise _Elsewhere
        return found


def _argument(request: web.Request, name: str) -> str:
    value = request.query.get(name)
    if not value:
        raise _Elsewhere  # MLflow's own words for what is missing
    return value


def _root(uri: object) -> str:
    """The canonical path of an artifact root, below the proxy's.

    As ``mlflow.server.handlers._is_servable_proxied_run_artifact_root``: a server that serves artifacts takes every
    address of an artifact proxy for its own.
    """
    parts = urlsplit(str(uri))
    if parts.scheme == "mlflow-artifacts":
        return paths.canonical(parts.path.lstrip("/"))
    if parts.scheme in ("http", "https") and _PROXY_ANCHOR in parts.path:
        return paths.canonical(parts.path.partition(_PROXY_ANCHOR)[2])
    raise _Elsewhere
