"""Mounts all that the gateway serves of artifacts."""

from __future__ import annotations

from aiohttp import web

from runstream.ingest.gateway.artifacts.config import ArtifactConfig
from runstream.ingest.gateway.artifacts.pages import ArtifactPages, Ask
from runstream.ingest.gateway.artifacts.routes import ArtifactRoutes, Authorize, Relay, at_once
from runstream.ingest.gateway.artifacts.telemetry import ArtifactTelemetry
from runstream.ingest.gateway.artifacts.transfer import Yield
from runstream.ingest.gateway.http.hosts import HostRules


def add_artifact_routes(
    app: web.Application,
    config: ArtifactConfig,
    *,
    prefix: str,
    ask: Ask,
    relay: Relay,
    hosts: HostRules,
    telemetry: ArtifactTelemetry,
    authorize: Authorize | None = None,
    give_way: Yield = at_once,
) -> ArtifactRoutes:
    """Add the proxy's routes and the web page's, before any route that takes every path.

    ``ask`` GETs a path of the MLflow server; ``relay`` passes a whole request on to it. ``authorize`` is asked before
    anything else. The store opens with the application (``ConfigError`` if it cannot) and closes with it.
    """
    routes = ArtifactRoutes(
        config, relay=relay, hosts=hosts, telemetry=telemetry, authorize=authorize, give_way=give_way
    )
    routes.add_to(app, prefix)
    ArtifactPages(routes, ask=ask, relay=relay, max_list_entries=config.max_list_entries).add_to(app, prefix)
    return routes
