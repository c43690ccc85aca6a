"""The hot routes: MLflow's ``log-batch`` and ``log-metric``, and the store plugin's append."""

from __future__ import annotations

import hmac

import msgspec

from runstream.ingest.gateway.http.handling import OK, Call, Outcome, Result, Routes
from runstream.ingest.gateway.writes.aside import Aside
from runstream.ingest.gateway.writes.batching import Points
from runstream.ingest.gateway.writes.intake import Intake
from runstream.ingest.gateway.writes.log_request import LogRequest
from runstream.ingest.gateway.writes.parse import PARSERS
from runstream.schemas.errors import MlflowError
from runstream.schemas.mlflow.values import BY_NAME
from runstream.schemas.wire import INTERNAL, TOKEN_HEADER

_TOKEN = TOKEN_HEADER.lower()


class _Append(msgspec.Struct):
    """Body of the internal append: columns of equal length, non-finite values as MLflow's strings."""

    run_id: str
    keys: list[str]
    steps: list[int]
    timestamps: list[int]
    values: list[float | str]


class MetricWrites:
    """Handlers of the metric writes, as ``http.handling`` has them."""

    def __init__(self, intake: Intake, aside: Aside, *, internal_token: str) -> None:
        self._intake = intake
        self._aside = aside
        self._token = internal_token.encode()
        self._append_decoder = msgspec.json.Decoder(_Append)

    def add_to(self, routes: Routes, prefix: str) -> None:
        """Everything else about these paths (other methods, …) stays with the MLflow server."""
        for route in PARSERS:
            routes.add_mlflow("POST", f"runs/{route}", self.log, prefix=prefix)
        routes.add("POST", f"{INTERNAL}/append", self.append, name="append", any_host=True)

    def log(self, call: Call) -> Result:
        """MLflow's ``runs/log-batch`` and ``runs/log-metric``, by the route's name: 200 when durable."""
        log = PARSERS[call.route.name].at_once(call.body, call.headers.get("content-type"))
        if log is None:
            return self._read_aside(call)
        return self._intake.accept_nowait(log, call.identity) or self._accept(log, call)

    async def _read_aside(self, call: Call) -> Outcome:
        await self._intake.let_in(call.identity)
        log = await self._aside.parse(call.route.name, call.body, call.headers.get("content-type"))
        return await self._accept(log, call)

    async def _accept(self, log: LogRequest, call: Call) -> Outcome:
        call.body = b""  # the points are out of it, and it may be long until they are durable
        await self._intake.accept(log, call.route.name, call.identity)
        return OK

    async def append(self, call: Call) -> Outcome:
        """Points from the MLflow server's store plugin, which has checked them. 200 when durable."""
        given = call.headers.get(_TOKEN, "").encode("utf-8", "surrogateescape")
        if not self._token or not hmac.compare_digest(given, self._token):
            return Outcome(403, {"Content-Type": "text/plain"}, b"wrong or missing token")
        try:
            columns = self._append_decoder.decode(call.body)
            values = [BY_NAME[value] if isinstance(value, str) else value for value in columns.values]
        except (msgspec.DecodeError, KeyError) as error:
            raise MlflowError(f"malformed append: {error}") from None
        if not len(columns.keys) == len(columns.steps) == len(columns.timestamps) == len(values):
            raise MlflowError("malformed append: columns have different lengths")
        await self._intake.append(
            Points(columns.run_id, columns.keys, columns.steps, columns.timestamps, values)
        )
        return OK
