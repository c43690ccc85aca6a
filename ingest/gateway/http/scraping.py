"""Who may read a gateway's metrics.

They tell of nobody's data, but of how much there is and how the server is doing. Where nobody is told apart they are
for anybody. Where MLflow's server knows users they are for those, as with ``mlflow server --expose-prometheus``,
and for whoever carries the token that the operator has set for Prometheus: that needs no other server.
"""

from __future__ import annotations

import hmac

from runstream.ingest.gateway.http.admission import Admission, Identity
from runstream.ingest.gateway.http.server_mode import ModeWatch, ServerMode
from runstream.schemas.errors import MlflowError


class Scraping:
    """``token`` may be empty: then there is none. With one, metrics are closed to strangers in any case."""

    def __init__(self, token: str, server: ModeWatch, admission: Admission) -> None:
        self._bearer = f"Bearer {token}".encode() if token else b""
        self._server = server
        self._admission = admission

    async def check(self, identity: Identity) -> None:
        """Return if this caller may; raise ``RefusedError``, ``MlflowError`` (401), or ``UpstreamUnavailableError`` if
        nobody can say."""
        given = dict(identity).get("Authorization", "").encode("utf-8", "surrogateescape")
        if self._bearer and hmac.compare_digest(given, self._bearer):
            return
        if await self._server.settled() is not ServerMode.OPEN:
            await self._admission.check_known(identity)
        elif self._bearer:
            raise MlflowError("Metrics need RUNSTREAM_METRICS_TOKEN as a bearer token", "UNAUTHENTICATED")
