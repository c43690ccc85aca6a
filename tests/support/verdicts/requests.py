"""How the table of verdict cases writes its requests down."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

# Runs that the cases share: a test prepares them once per server, and no case changes them.
RUNS = ("deleted", "history", "history2", "empty")
UNKNOWN = "0123456789abcdef0123456789abcdef"
JSON = "application/json"
API = "/api/2.0/mlflow"
AJAX = "/ajax-api/2.0/mlflow"


class Raw(str):
    """JSON text to stand in a body as it is."""


@dataclass(frozen=True)
class Request:
    """One HTTP request; ``content_type`` is sent as it is, or not at all if ``None``."""

    method: str
    path: str
    body: bytes | None = None
    content_type: str | None = JSON


@dataclass(frozen=True)
class Case:
    """Requests to send one after another."""

    name: str
    requests: tuple[Request, ...]


def dump(value: Any) -> str:
    """JSON text in which ``Raw`` parts are kept, and names may repeat (an object given as a list of ``pair``)."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{dump(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dump, value)) + "]"
    return json.dumps(value)


def post(path: str, body: Any, content_type: str | None = JSON, api: str = API) -> Request:
    """A POST of bytes, of ``Raw`` text, or of anything else as JSON."""
    data = body if isinstance(body, bytes) else dump(body).encode("utf-8", "surrogatepass")
    return Request("POST", f"{api}/{path}", data, content_type)


def log_metric(body: Any, content_type: str | None = JSON) -> Request:
    return post("runs/log-metric", body, content_type)


def log_batch(body: Any, content_type: str | None = JSON) -> Request:
    return post("runs/log-batch", body, content_type)


def one(**fields: Any) -> dict[str, Any]:
    """A good ``log-metric`` body with some fields changed; ``...`` leaves one out."""
    body = {"run_id": "@active@", "key": "k", "value": 0.5, "timestamp": 1700000000000, "step": 2, **fields}
    return {name: value for name, value in body.items() if value is not ...}


def point(**fields: Any) -> dict[str, Any]:
    """A good metric of a batch with some fields changed; ``...`` leaves one out."""
    body = {"key": "k", "value": 0.5, "timestamp": 1700000000000, "step": 2, **fields}
    return {name: value for name, value in body.items() if value is not ...}


def batch(*metrics: Any, **fields: Any) -> dict[str, Any]:
    """A ``log-batch`` body."""
    body = {"run_id": "@active@", "metrics": list(metrics), **fields}
    return {name: value for name, value in body.items() if value is not ...}


def pairs(count: int, value: str = "v") -> list[dict[str, str]]:
    return [{"key": f"p{number}", "value": value} for number in range(count)]


def points(count: int) -> list[dict[str, Any]]:
    return [point(key=f"k{number % 7}", step=number, value=number / 7) for number in range(count)]


def history(**query: Any) -> Request:
    return Request("GET", f"{API}/metrics/get-history?{urlencode(query, doseq=True)}", None, None)


def bulk(**query: Any) -> Request:
    return Request("GET", f"{AJAX}/metrics/get-history-bulk?{urlencode(query, doseq=True)}", None, None)


def interval(api: str = AJAX, **query: Any) -> Request:
    return Request(
        "GET", f"{api}/metrics/get-history-bulk-interval?{urlencode(query, doseq=True)}", None, None
    )
