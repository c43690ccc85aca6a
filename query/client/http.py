"""Requests to a Runstream server, with MLflow's credentials and its patience."""

from __future__ import annotations

import base64
import configparser
import contextlib
import os
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from runstream.schemas.backoff import Backoff

_TRUE = ("1", "true", "yes")
_RETRYABLE = (429, 502, 503, 504)
_TRIES = 6
_LONGEST_PAUSE_S = 5.0


class ServerError(Exception):
    """The server refused or failed. ``status`` is the HTTP status, ``error_code`` MLflow's name for the
    error."""

    def __init__(self, message: str, *, status: int | None = None, error_code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code


def tracking_uri() -> str:
    """MLflow's tracking URI, as ``mlflow.get_tracking_uri`` knows it without importing MLflow.

    Raises ``ValueError`` if there is none, or it is not a server's.
    """
    mlflow = sys.modules.get("mlflow")
    uri = mlflow.get_tracking_uri() if mlflow is not None else os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise ValueError("no server: pass its URL to runstream.connect, or set MLFLOW_TRACKING_URI")
    return str(uri)


class Credentials(httpx.Auth):
    """MLflow's credentials, looked up at every request, as MLflow's client does: tokens expire."""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        """Give the request what the environment holds now."""
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        basic = None if token else _basic_auth() or (request.url.username, request.url.password)
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        elif basic is not None and basic[0]:
            user_and_password = base64.b64encode(":".join(basic).encode()).decode()
            request.headers["Authorization"] = f"Basic {user_and_password}"
        workspace = _workspace()
        if workspace:
            request.headers["X-MLFLOW-WORKSPACE"] = workspace
        yield request


def _workspace() -> str | None:
    """The workspace that MLflow's client would name (``mlflow.set_workspace``, ``MLFLOW_WORKSPACE``)."""
    context = sys.modules.get("mlflow.utils.workspace_context")
    named = context.get_request_workspace() if context is not None else os.environ.get("MLFLOW_WORKSPACE")
    return named.strip() if named else None


class Http:
    """One server's connections. Thread-safe; waits out 429 and 503 as the MLflow client does."""

    def __init__(self, uri: str, *, timeout_s: float) -> None:
        if not uri.startswith(("http://", "https://")):
            raise ValueError(f"not the URL of a server: {uri!r}")
        self.uri = uri.rstrip("/")
        self._timeout_s = timeout_s
        self.client = httpx.Client(**self.options())

    def options(self) -> dict[str, Any]:
        """How to make a client of httpx for this server."""
        return {
            "base_url": self.uri,
            "timeout": httpx.Timeout(self._timeout_s, connect=10.0),
            "auth": Credentials(),
            "headers": {"User-Agent": "runstream"},
            "verify": _verify(),
            "cert": os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH") or None,
            "follow_redirects": True,
        }

    def json(self, method: str, path: str, **request: Any) -> Any:
        """The JSON of an answer. Raises ``ServerError``."""
        with self.stream(method, path, **request) as response:
            response.read()
            return response.json()

    @contextlib.contextmanager
    def stream(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **request: Any
    ) -> Iterator[httpx.Response]:
        """An answer whose body is still to be read. Raises ``ServerError``."""
        backoff = Backoff(0.2, _LONGEST_PAUSE_S)
        for attempt in range(_TRIES):
            last = attempt == _TRIES - 1
            try:
                with self.client.stream(method, path, headers=dict(headers or {}), **request) as response:
                    if response.status_code not in _RETRYABLE or last:
                        if response.status_code >= 400:
                            response.read()
                            raise error_of(response)
                        yield response
                        return
                    pause_s = _pause_s(backoff, response.headers.get("Retry-After"))
            except httpx.ConnectError as error:
                if last:
                    raise ServerError(f"{self.uri} does not answer: {error}") from error
                pause_s = _pause_s(backoff, None)
            except httpx.TransportError as error:
                raise ServerError(f"the connection to {self.uri} broke: {error}") from error
            time.sleep(pause_s)

    def close(self) -> None:
        """Close every connection."""
        self.client.close()


def error_of(response: httpx.Response) -> ServerError:
    """The error that an answer tells of; its body has been read."""
    try:
        body = response.json()
        message, code = str(body["message"]), str(body["error_code"])
    except (ValueError, KeyError, TypeError):
        message, code = response.text[:500] or response.reason_phrase, None
    return ServerError(message, status=response.status_code, error_code=code)


def _pause_s(backoff: Backoff, retry_after: str | None) -> float:
    own_s = backoff.next_s()
    try:
        return min(float(retry_after or ""), _LONGEST_PAUSE_S)
    except ValueError:
        return own_s


def _basic_auth() -> tuple[str, str] | None:
    """From the environment, else from MLflow's credentials file (``mlflow.utils.credentials``)."""
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if not (user and password):
        file = configparser.ConfigParser(interpolation=None)
        try:
            file.read(Path.home() / ".mlflow" / "credentials")
        except (OSError, configparser.Error, RuntimeError):
            return None
        user = user or file.get("mlflow", "mlflow_tracking_username", fallback=None)
        password = password or file.get("mlflow", "mlflow_tracking_password", fallback=None)
    return (user, password) if user and password else None


def _verify() -> Any:
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in _TRUE:
        return False
    certificates = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
    if not certificates:
        return True
    import ssl

    return ssl.create_default_context(cafile=certificates)
