"""Mounts all that the gateway serves of artifacts."""

from __future__ import annotations

from aiohttp import web

from runstream.ingest.gateway.artifacts.config import ArtifactConfig
from runstream.ingest.gateway.artifacts.pages import ArtifactPages
from runstream.ingest.gateway.artifacts.relay import Ask, Relay
from runstream.ingest.gateway.artifacts.routes import ArtifactRoutes, Authorize, at_once
from runstream.ingest.gateway.artifacts.telemetry import ArtifactTelemetry
from runstream.ingest.gateway.artifacts.transfer import Yield
from runstream.ingest.gateway.http.holding import Holding
from runstream.ingest.gateway.http.hosts import HostRules
from runstream.ingest.gateway.http.server_mode import ModeWatch


def add_artifact_routes(
    app: web.Application,
    config: ArtifactConfig,
    *,
    prefix: str,
    ask: Ask,
    relay: Relay,
    server: ModeWatch,
    hosts: HostRules,
    telemetry: ArtifactTelemetry,
    authorize: Authorize,
    give_way: Yield = at_once,
    holding: Holding | None = None,
) -> ArtifactRoutes:
    """Add the proxy's routes and the web page's, before any route that takes every path.

    ``ask`` GETs a path of the MLflow server; ``relay`` passes a whole request on to it. ``server`` knows how it decides
    about callers, and ``authorize`` asks for its verdict where it is basic-auth. The store opens with the application
    (``ConfigError`` if it cannot) and closes with it.
    """
    routes = ArtifactRoutes(
        config,
        relay=relay,
        ask=ask,
        server=server,
        hosts=hosts,
        telemetry=telemetry,
        authorize=authorize,
        give_way=give_way,
        holding=holding,
    )
    routes.add_to(app, prefix)
    ArtifactPages(routes, config, ask=ask).add_to(app, prefix)
    return routes
