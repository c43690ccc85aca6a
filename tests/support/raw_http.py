"""HTTP as it is written: bodies and headers that well-behaved clients do not send."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """Status and body of a response."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        """The decoded body, ``None`` if it is not JSON."""
        with contextlib.suppress(ValueError):
            return json.loads(self.body)
        return None


class RawClient:
    """One kept-alive connection to a server; not for several threads."""

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.url = url
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout_s)

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request and read its answer; an iterable body goes out in chunks."""
        chunked = body is not None and not isinstance(body, bytes)
        for attempt in range(2):
            try:
                self._connection.request(method, path, body, dict(headers or {}), encode_chunked=chunked)
                response = self._connection.getresponse()
                return Answer(response.status, response.read())
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                # The server had closed the idle connection. What it has not read, it has not done.
                self._connection.close()
                if attempt:
                    raise
            except BaseException:
                self._connection.close()
                raise
        raise AssertionError("unreachable")

    def call(self, path: str, body: Any) -> Any:
        """POST JSON below MLflow's API and return the decoded answer, which must be a 200."""
        data = json.dumps(body).encode()
        answer = self.send("POST", f"/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"})
        assert answer.status == 200, (path, answer)
        return answer.json

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
