"""MLflow's REST API as the harness uses it: plain requests on one keep-alive connection."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

API = "/api/2.0/mlflow/"
AJAX = "/ajax-api/2.0/mlflow/"


class ApiError(Exception):
    """The server answered something else than 200."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body[:300]}")
        self.status = status


class Client:
    """Not thread-safe. Blocks up to ``timeout_s`` a call; raises ``ApiError`` and ``OSError``."""

    def __init__(self, host: str, port: int, timeout_s: float = 120.0) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        self.address = (host, port)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        return self._call("GET", f"{path}?{urlencode(query, doseq=True)}", None)

    def post(self, path: str, body: Any) -> dict[str, Any]:
        return self._call("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())

    def _call(self, method: str, target: str, body: bytes | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            answer, data = self._exchange(method, target, body, headers)
        except (http.client.RemoteDisconnected, ConnectionError):
            # The server has closed the idle connection; the request was not taken.
            answer, data = self._exchange(method, target, body, headers)
        if answer.status != 200:
            raise ApiError(answer.status, data.decode(errors="replace"))
        parsed: dict[str, Any] = json.loads(data or b"{}")
        return parsed

    def _exchange(
        self, method: str, target: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        try:
            self._connection.request(method, target, body, headers)
            answer = self._connection.getresponse()
            return answer, answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise

    def create_experiment(self, name: str) -> str:
        return str(self.post(API + "experiments/create", {"name": name})["experiment_id"])

    def create_run(self, experiment_id: str) -> str:
        body = {"experiment_id": experiment_id, "start_time": 1_760_000_000_000, "tags": []}
        return str(self.post(API + "runs/create", body)["run"]["info"]["run_id"])

    def create_runs(self, experiment_id: str, count: int) -> list[str]:
        """``count`` runs, over a few connections."""

        def some(share: int) -> list[str]:
            with Client(*self.address) as client:
                return [client.create_run(experiment_id) for _ in range(share)]

        workers = min(4, count)
        shares = [count // workers + (i < count % workers) for i in range(workers)]
        with ThreadPoolExecutor(workers) as pool:
            return [run for runs in pool.map(some, shares) for run in runs]

    def latest(self, run_id: str) -> dict[str, float]:
        data = self.get(API + "runs/get", run_id=run_id)["run"]["data"]
        return {metric["key"]: metric["value"] for metric in data.get("metrics", [])}

    def history(self, run_id: str, key: str) -> list[tuple[int, int, float]]:
        """Every point of one series as (step, timestamp, value), page by page."""
        points: list[tuple[int, int, float]] = []
        query: dict[str, Any] = {"run_id": run_id, "metric_key": key, "max_results": 25_000}
        while True:
            page = self.get(API + "metrics/get-history", **query)
            points += [
                (int(m.get("step", 0)), int(m["timestamp"]), float(m["value"]))
                for m in page.get("metrics", [])
            ]
            if not page.get("next_page_token"):
                return points
            query["page_token"] = page["next_page_token"]

    def history_bulk(self, run_ids: Sequence[str], key: str) -> int:
        """How many points the page's own bulk endpoint answers for several runs."""
        page = self.get(AJAX + "metrics/get-history-bulk", run_id=list(run_ids), metric_key=key)
        return len(page.get("metrics", []))

    def search_by_metric(self, experiment_id: str, key: str, count: int = 100) -> list[str]:
        """Run ids of an experiment ordered by a metric, best first."""
        body = {
            "experiment_ids": [experiment_id],
            "order_by": [f"metrics.`{key}` DESC"],
            "max_results": count,
        }
        return [run["info"]["run_id"] for run in self.post(API + "runs/search", body).get("runs", [])]
