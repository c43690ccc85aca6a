"""What the MLflow store plugin asks of the gateway and of the query service, over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import urllib3
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE, ErrorCode

from runstream.schemas.backoff import Backoff
from runstream.schemas.mlflow.values import json_number
from runstream.schemas.wire import INTERNAL, NEXT_PAGE, TOKEN_HEADER

_RETRYABLE = (429, 502, 503, 504)
_FIRST_PAUSE_S = 0.075
_LONGEST_PAUSE_S = 1.5
_Point = tuple[str, int, int, float]


class Remote:
    """Connections to the gateway and the query service. Thread-safe; every call blocks, at most
    ``deadline_s`` or so. What passes by itself (429, 503, no connection) is tried again until then; the
    rest is an ``MlflowException``.
    """

    def __init__(self, *, gateway_url: str, query_url: str, token: str, deadline_s: float = 30.0) -> None:
        self._append_url = f"{gateway_url.rstrip('/')}{INTERNAL}/append"
        self._query_url = f"{query_url.rstrip('/')}{INTERNAL}"
        self._headers = {TOKEN_HEADER: token, "Content-Type": "application/json"}
        self._deadline_s = deadline_s
        self._pool = urllib3.PoolManager(num_pools=4, maxsize=64, block=False)

    def append(
        self,
        run_id: str,
        keys: Sequence[str],
        steps: Sequence[int],
        timestamps: Sequence[int],
        values: Sequence[float],
    ) -> None:
        """Append points of one run; returns when they are durable."""
        self._post(
            self._append_url,
            {
                "run_id": run_id,
                "keys": keys,
                "steps": steps,
                "timestamps": timestamps,
                "values": [json_number(value) for value in values],
            },
        )

    def points(self, route: str, **request: Any) -> tuple[list[_Point], str | None]:
        """Points as (run id, step, timestamp, value), and the next page's token if there is one."""
        body = self._post(f"{self._query_url}/{route}", request)
        with pa.ipc.open_stream(body) as reader:
            metadata = reader.schema.metadata or {}
            token = metadata.get(NEXT_PAGE)
            points: list[_Point] = []
            for batch in reader:
                points.extend(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        return points, token.decode() if token is not None else None

    def max_step(self, run_id: str, key: str) -> int:
        """The largest step of a series, 0 if there is none."""
        return int(
            json.loads(self._post(f"{self._query_url}/max-step", {"run_id": run_id, "key": key}))["step"]
        )

    def delete_runs(self, run_ids: Sequence[str]) -> None:
        """Remove every point of these runs."""
        self._post(f"{self._query_url}/delete-runs", {"run_ids": run_ids})

    def _post(self, url: str, request: dict[str, Any]) -> bytes:
        body = json.dumps(request, allow_nan=False).encode()
        deadline = time.monotonic() + self._deadline_s
        # A part at random, so that many threads do not come back at once.
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, spread=2 / 3)
        while True:
            left_s = max(deadline - time.monotonic(), 0.1)
            try:
                answer = self._pool.request(
                    "POST",
                    url,
                    body=body,
                    headers=self._headers,
                    retries=False,
                    timeout=urllib3.Timeout(connect=min(left_s, 5.0), read=left_s),
                )
            except (urllib3.exceptions.HTTPError, OSError) as error:
                status, reason = 0, f"{type(error).__name__}"
            else:
                if answer.status == 200:
                    return bytes(answer.data)
                status, reason = answer.status, f"status {answer.status}"
                if status not in _RETRYABLE:
                    raise _refusal(status, bytes(answer.data))
            wait_s = backoff.next_s()
            if time.monotonic() + wait_s >= deadline:
                raise MlflowException(
                    f"Runstream does not answer ({reason}); try again", TEMPORARILY_UNAVAILABLE
                )
            time.sleep(wait_s)


def _refusal(status: int, body: bytes) -> MlflowException:
    try:
        answer = json.loads(body)
        return MlflowException(answer["message"], ErrorCode.Value(answer["error_code"]))
    except (ValueError, KeyError, TypeError):
        return MlflowException(f"Runstream answered with status {status}", INTERNAL_ERROR)
