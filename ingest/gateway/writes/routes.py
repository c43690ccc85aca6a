"""The hot routes: MLflow's ``log-batch`` and ``log-metric``, and the store plugin's append."""

from __future__ import annotations

import hmac
import math

import msgspec
from aiohttp import web

from runstream.ingest.gateway.http import answers
from runstream.ingest.gateway.http.decompress import decompress_body
from runstream.ingest.gateway.http.hosts import HostRules
from runstream.ingest.gateway.reads.routes import Relay
from runstream.ingest.gateway.telemetry import GatewayTelemetry
from runstream.ingest.gateway.writes.admission import IDENTITY_HEADERS, Identity
from runstream.ingest.gateway.writes.batching import Points
from runstream.ingest.gateway.writes.intake import PARSERS, Intake
from runstream.schemas.errors import MlflowError

INTERNAL_TOKEN_HEADER = "X-Runstream-Token"
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class _Append(msgspec.Struct):
    """Body of the internal append: columns of equal length, non-finite values as MLflow's strings."""

    run_id: str
    keys: list[str]
    steps: list[int]
    timestamps: list[int]
    values: list[float | str]


class MetricRoutes:
    """The metric writes as aiohttp handlers: every request that the lean path does not take."""

    def __init__(
        self,
        *,
        intake: Intake,
        relay: Relay,
        hosts: HostRules,
        telemetry: GatewayTelemetry,
        internal_token: str,
        max_body_bytes: int,
        retry_after_s: int,
    ) -> None:
        self._intake = intake
        self._relay = relay
        self._hosts = hosts
        self._telemetry = telemetry
        self._token = internal_token.encode()
        self._max_body_bytes = max_body_bytes
        self._retry_after_s = retry_after_s
        self._append_decoder = msgspec.json.Decoder(_Append)

    def add_to(self, app: web.Application, prefix: str) -> None:
        """Mount the routes; everything else about these paths (other methods, …) stays with the MLflow server."""
        for api in ("/api/2.0/mlflow", "/ajax-api/2.0/mlflow"):
            app.router.add_post(f"{prefix}{api}/runs/log-batch", self.log_batch)
            app.router.add_post(f"{prefix}{api}/runs/log-metric", self.log_metric)
        app.router.add_post("/api/1.0/runstream/internal/append", self.append)

    async def log_batch(self, request: web.Request) -> web.StreamResponse:
        """MLflow's ``runs/log-batch``."""
        return await self._log(request, "log-batch")

    async def log_metric(self, request: web.Request) -> web.StreamResponse:
        """MLflow's ``runs/log-metric``."""
        return await self._log(request, "log-metric")

    async def _log(self, request: web.Request, route: str) -> web.StreamResponse:
        if not self._hosts.serves(request):
            return await self._relay(request)
        self._telemetry.request(route)
        try:
            body = await request.read()
            encoding = request.headers.get("Content-Encoding")
            if encoding:
                body = decompress_body(body, encoding, self._max_body_bytes)
            log = PARSERS[route](body, request.headers.get("Content-Type"))
            await self._intake.accept(log, route, identity_of(request))
        except Exception as error:
            response = answers.refusal(error, self._retry_after_s)
            self._telemetry.refused(answers.reason(error))
            return response
        return answers.ok()

    async def append(self, request: web.Request) -> web.StreamResponse:
        """Points from the MLflow server's store plugin, which has checked them. 200 when durable."""
        if not hmac.compare_digest(request.headers.get(INTERNAL_TOKEN_HEADER, "").encode(), self._token):
            return web.Response(status=403, text="wrong or missing token")
        self._telemetry.request("append")
        try:
            columns = self._append_decoder.decode(await request.read())
            values = [_SPECIAL[value] if isinstance(value, str) else value for value in columns.values]
            if not len(columns.keys) == len(columns.steps) == len(columns.timestamps) == len(values):
                raise MlflowError("columns have different lengths")
            await self._intake.append(
                Points(columns.run_id, columns.keys, columns.steps, columns.timestamps, values)
            )
        except (msgspec.DecodeError, KeyError) as error:
            return answers.refusal(MlflowError(f"malformed append: {error}"), self._retry_after_s)
        except Exception as error:
            response = answers.refusal(error, self._retry_after_s)
            self._telemetry.refused(answers.reason(error))
            return response
        return answers.ok()


def identity_of(request: web.Request) -> Identity:
    """The headers that MLflow's server may base a verdict on."""
    headers = request.headers
    return tuple((name, headers[name]) for name in IDENTITY_HEADERS if name in headers)
