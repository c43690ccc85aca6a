"""Who may read and write artifacts, when the MLflow server knows users (``--app-name basic-auth``).

It is asked, with the caller's own headers, for something that needs the same right and moves nothing: a listing of
the path for reading, an incomplete multipart request for writing. Only a yes is remembered, for a while. What cannot
be asked this way (deleting, the web page's addresses) does not come here: it is relayed to it whole.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol
from urllib.parse import quote

from aiohttp import web
from cachetools import FIFOCache

from runstream.ingest.artifacts import paths
from runstream.ingest.artifacts.errors import InvalidPathError
from runstream.ingest.gateway.artifacts.routes import Subject, raw_path
from runstream.ingest.gateway.http.caller import Caller
from runstream.schemas.mlflow.paths import ARTIFACTS_API

# Below one run, model or trace MLflow judges every path alike (mlflow.server.auth, 3.17).
_OWNER = re.compile(r"[^/]+/(?:[0-9a-f]{32}|models/[^/]+|traces/[^/]+)/artifacts(?=/)")
_MAX_ENTRIES = 50_000
_REFUSALS = (401, 403)


class _Answer(Protocol):
    @property
    def status(self) -> int: ...

    def response(self) -> web.Response: ...


class ArtifactVerdicts:
    """An ``Authorize``. ``get`` and ``post`` ask the MLflow server. What was remembered is void when ``epoch``
    changes."""

    def __init__(
        self,
        *,
        get: Callable[[str, Mapping[str, str]], Awaitable[_Answer]],
        post: Callable[[str, bytes, Mapping[str, str]], Awaitable[_Answer]],
        ttl_s: float,
        epoch: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._get = get
        self._post = post
        self._ttl_s = ttl_s
        self._epoch = epoch
        self._clock = clock
        self._until: FIFOCache[tuple[object, ...], float] = FIFOCache(_MAX_ENTRIES)

    async def __call__(self, request: web.Request, subject: Subject) -> web.StreamResponse | None:
        """``None`` if the caller may do this; else the answer."""
        if subject == "server":
            return None  # asks the MLflow server itself
        try:
            named = request.query.get("path", "") if subject == "directory" else raw_path(request)
            path = paths.canonical(named)
        except InvalidPathError:
            return None  # refused for that, whoever asks
        writes = request.method in ("PUT", "POST")
        identity = dict(Caller.of(request).identity)
        owner = _OWNER.match(path)
        key = (self._epoch(), writes, owner[0] if owner else path, *identity.items())
        if self._until.get(key, 0.0) > self._clock():
            return None
        if writes:
            headers = {"Content-Type": "application/json", **identity}
            answer = await self._post(f"{ARTIFACTS_API}/mpu/abort/{quote(path)}", b"{}", headers)
        else:
            answer = await self._get(f"{ARTIFACTS_API}/artifacts?path={quote(path, safe='')}", identity)
        if answer.status in _REFUSALS:
            return answer.response()
        if answer.status >= 500 and answer.status != 501:
            return answer.response()  # it could not say; 501 is its word for a store that takes no parts
        self._until[key] = self._clock() + self._ttl_s
        return None
