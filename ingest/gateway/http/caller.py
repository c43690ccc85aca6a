"""Who sent a request: one value, made once, that every question about rights is asked with."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from runstream.ingest.gateway.http.admission import IDENTITY_HEADERS, Identity

WORKSPACE_HEADER = "X-MLFLOW-WORKSPACE"


@dataclass(frozen=True, slots=True)
class Caller:
    """``identity`` are the headers that the MLflow server may judge by, ``workspace`` what the caller names as its
    own (empty: nothing), ``address`` where the connection comes from."""

    identity: Identity
    workspace: str
    address: str

    @classmethod
    def of(cls, request: web.Request) -> Caller:
        """The caller of a request."""
        headers = request.headers
        return cls(
            tuple((name, headers[name]) for name in IDENTITY_HEADERS if name in headers),
            # MLflow takes a blank name for none (mlflow.server.workspace_helpers).
            headers.get(WORKSPACE_HEADER, "").strip(),
            request.remote or "",
        )
