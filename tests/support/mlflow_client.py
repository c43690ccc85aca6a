"""MLflow's REST API without its client: for what the UI calls and the client does not offer."""

from __future__ import annotations

import time
from typing import Any

import requests

TIMEOUT_S = 120.0
_RETRIES = 7


class Rest:
    """A connection to one server. ``get`` and ``post`` return the decoded answer and insist on status 200, ``get``
    after as many 429 or 503 with ``Retry-After`` as MLflow's client would bear."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = requests.Session()

    def get(self, path: str, **params: Any) -> Any:
        """A GET below ``/``; lists become repeated parameters."""
        answer = self._session.get(f"{self.url}/{path}", params=params, timeout=TIMEOUT_S)
        for _ in range(_RETRIES):
            if answer.status_code not in (429, 503) or "Retry-After" not in answer.headers:
                break
            time.sleep(float(answer.headers["Retry-After"]))
            answer = self._session.get(f"{self.url}/{path}", params=params, timeout=TIMEOUT_S)
        assert answer.status_code == 200, (answer.status_code, answer.text[:1000])
        return answer.json()

    def post(self, path: str, body: Any) -> Any:
        """A POST of JSON below ``/``."""
        answer = self._session.post(f"{self.url}/{path}", json=body, timeout=TIMEOUT_S)
        assert answer.status_code == 200, (answer.status_code, answer.text[:1000])
        return answer.json()

    def history(self, run_id: str, key: str, *, max_results: int = 25_000) -> list[dict[str, Any]]:
        """All points of a series by ``metrics/get-history``, page by page."""
        points: list[dict[str, Any]] = []
        token: str | None = None
        while True:
            params = {"run_id": run_id, "metric_key": key, "max_results": max_results}
            if token:
                params["page_token"] = token
            page = self.get("api/2.0/mlflow/metrics/get-history", **params)
            points += page.get("metrics", [])
            token = page.get("next_page_token")
            if not token:
                return points

    def __enter__(self) -> Rest:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()
