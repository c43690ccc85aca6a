"""The way to the server: one HTTP session, credentials asked anew at every request, failures told apart."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INGEST = "/api/1.0/runstream/ingest"
MLFLOW = "/api/2.0/mlflow"
_CONNECT_TIMEOUT_S = 5.0
_LEAST_TIMEOUT_S = 0.2
# mlflow.utils.workspace_utils.WORKSPACE_HEADER_NAME; older MLflow has no workspaces.
_WORKSPACE_HEADER = "X-MLFLOW-WORKSPACE"


class AwayError(Exception):
    """The server cannot be reached, or cannot answer now; trying again later may help. ``after_s`` is its wish.
    ``only_this``: it answers, but has failed at just this."""

    def __init__(self, reason: str, after_s: float = 0.0, *, only_this: bool = False) -> None:
        super().__init__(reason)
        self.after_s = after_s
        self.only_this = only_this


class DeniedError(Exception):
    """The credentials are not accepted (any more); nothing is lost, other ones may come. ``only_this``: somebody is
    known to the server, who may not do just this."""

    def __init__(self, reason: str, *, only_this: bool = False) -> None:
        super().__init__(reason)
        self.only_this = only_this


class RefusedError(Exception):
    """The server does not take this, and never will."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    @property
    def no_such_run(self) -> bool:
        """Whether it is because the run does not exist (yet): ``Run with id=… not found``, ``Run '…' not found``."""
        return self.code == "RESOURCE_DOES_NOT_EXIST" and str(self).startswith("Run ")

    @property
    def repeated(self) -> bool:
        """Whether it is there already, as MLflow says of a model output that is sent twice: in its database's words."""
        return "UNIQUE constraint failed" in str(self) or "duplicate key value violates" in str(self)


class NotYetError(Exception):
    """A run does not exist on the server; whoever has its creation in a spool may not have sent it yet."""


class BusyError(NotYetError):
    """Another process is just creating it."""


@dataclass
class LinkState:
    """What is known of the server: ``up``, ``away`` (unreachable), ``denied`` (credentials) or ``unknown``; ``since``
    when (Unix, s), and when it was last ``heard`` (monotonic, s)."""

    state: str = "unknown"
    since: float = 0.0
    reason: str = ""
    heard: float = -1e9

    def now(self, state: str, reason: str = "") -> None:
        """Note a change; the time of the first stays."""
        if state != self.state:
            self.state, self.since = state, time.time()
        self.reason = reason
        self.heard = time.monotonic()


class Link:
    """Requests to one server. Not thread-safe: whoever sends holds the sender's lock.

    ``token`` is asked for the bearer token at every request; without it, ``RUNSTREAM_TOKEN_FILE`` (a file that
    somebody keeps fresh), ``MLFLOW_TRACKING_TOKEN``, user and password, or MLflow's credentials file.
    """

    def __init__(self, uri: str, token: Callable[[], str] | None = None) -> None:
        self.uri = uri.rstrip("/")
        self.state = LinkState()
        self._token = token
        self._session: Any = None
        self._offers: dict[str, Any] | None = None
        # The workspace that requests are for; ``None``: the one that this process works in.
        self.workspace: str | None = None
        # When whoever sends wants to be done (monotonic, s): no request is waited for beyond that.
        self.deadline = float("inf")

    def forget(self) -> None:
        """After a fork: the connections are the parent's."""
        self._session = None

    def offers(self, timeout_s: float = 5.0) -> dict[str, Any]:
        """What a Runstream server says of its ingest route; empty for any other server."""
        if self._offers is None:
            return self.ask(timeout_s)
        return self._offers

    def ask(self, timeout_s: float) -> dict[str, Any]:
        """The same, asked again: whether the server answers now."""
        try:
            answer = self.request("GET", INGEST, None, timeout_s=timeout_s)
        except RefusedError:
            answer = {}
        self._offers = answer if "frames" in answer else {}
        return self._offers

    def forget_offers(self) -> None:
        """Ask again next time: another server may stand there now."""
        self._offers = None

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float = 30.0
    ) -> dict[str, Any]:
        """A call of a JSON API; the answer's object. Raises the errors above."""
        data = json.dumps(body, separators=(",", ":")).encode() if body is not None else None
        return self.request(method, path, data, timeout_s=timeout_s)

    def request(
        self,
        method: str,
        path: str,
        data: Any,
        *,
        content_type: str = "application/json",
        timeout_s: float = 30.0,
    ) -> dict[str, Any]:
        """One request, and once more with fresh credentials after a 401."""
        import requests

        if self._session is None:
            self._session = requests.Session()
        answer = None
        timeout_s = max(min(timeout_s, self.deadline - time.monotonic()), _LEAST_TIMEOUT_S)
        for _ in range(2):
            headers = {**self._headers(), "Content-Type": content_type, "User-Agent": "runstream-client/1"}
            if hasattr(data, "seek"):
                data.seek(0)
            try:
                answer = self._session.request(
                    method,
                    self.uri + path,
                    data=data,
                    headers=headers,
                    timeout=(min(_CONNECT_TIMEOUT_S, timeout_s), timeout_s),
                    allow_redirects=False,
                    **self._tls(),
                )
            except (requests.RequestException, OSError) as error:
                self.state.now("away", _short(error))
                raise AwayError(_short(error)) from error
            if answer.status_code != 401:
                break
        assert answer is not None
        return self._judge(answer)

    def _judge(self, answer: Any) -> dict[str, Any]:
        status = answer.status_code
        try:
            value = answer.json() if answer.content else {}
        except ValueError:
            value = {}
        if not isinstance(value, dict):
            value = {"value": value}
        if 200 <= status < 300:
            self.state.now("up")
            return value
        message = str(value.get("message") or answer.text[:200] or answer.reason)
        if status in (401, 403):
            self.state.now("denied", f"{status} {message}")
            raise DeniedError(f"{status} {message}", only_this=status == 403)
        if status in (408, 429) or status >= 500:
            self.state.now("away", f"answers {status}")
            raise AwayError(
                f"answers {status}: {message}",
                _seconds(answer.headers.get("Retry-After")),
                only_this=status == 500,
            )
        if 300 <= status < 400:
            self.state.now(
                "away", f"answers {status}, a redirect to {answer.headers.get('Location', 'nowhere')}"
            )
            raise AwayError(self.state.reason)
        self.state.now("up")
        raise RefusedError(status, str(value.get("error_code", status)), message)

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        registry = sys.modules.get("mlflow.tracking.request_header.registry")
        if registry is not None:
            # What plugins of MLflow would add to its own requests.
            try:
                headers.update(registry.resolve_request_headers())
            except Exception:
                pass
        if workspace := self.workspace or current_workspace():
            headers.setdefault(_WORKSPACE_HEADER, workspace)
        if authorization := self._authorization():
            headers["Authorization"] = authorization
        return headers

    def _authorization(self) -> str | None:
        from requests.auth import _basic_auth_str

        token = None
        if self._token is not None:
            try:
                token = self._token()
            except Exception as error:
                self.state.now("denied", f"the token provider failed: {error}")
                raise DeniedError(self.state.reason) from error
        elif path := os.environ.get("RUNSTREAM_TOKEN_FILE"):
            try:
                token = Path(path).read_text().strip()
            except OSError as error:
                self.state.now("denied", f"the token file cannot be read: {error}")
                raise DeniedError(self.state.reason) from error
        if not token:
            user, password = _login()
            if user or password:
                return str(_basic_auth_str(user or "", password or ""))
            token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        return f"Bearer {token}" if token else None

    @staticmethod
    def _tls() -> dict[str, Any]:
        wanted: dict[str, Any] = {}
        if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
            wanted["verify"] = False
        elif path := os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"):
            wanted["verify"] = path
        if path := os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"):
            wanted["cert"] = path
        return wanted


def current_workspace() -> str | None:
    """The workspace that MLflow's own requests would name here."""
    context = sys.modules.get("mlflow.utils.workspace_context")
    if context is not None:
        try:
            return context.get_request_workspace() or None
        except Exception:
            return None
    return os.environ.get("MLFLOW_WORKSPACE") or None


def _login() -> tuple[str | None, str | None]:
    """User and password as MLflow finds them (mlflow.utils.credentials)."""
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user is None or password is None:
        parser = ConfigParser()
        try:
            parser.read(Path.home() / ".mlflow" / "credentials")
            user = user or parser.get("mlflow", "mlflow_tracking_username", fallback=None)
            password = password or parser.get("mlflow", "mlflow_tracking_password", fallback=None)
        except (ConfigParserError, OSError, RuntimeError):
            pass
    return user, password


def _seconds(text: str | None) -> float:
    try:
        return min(float(text or 0), 300.0)
    except ValueError:
        return 0.0


def _short(error: BaseException) -> str:
    """What went wrong in a few words: the system's own, where it has said something."""
    text = str(error) or type(error).__name__
    if "timed out" in text.lower():
        return "timed out"
    found = re.search(r"\[Errno -?\d+\] ([^'\")]+)", text)
    text = found[1] if found else text
    return text if len(text) <= 200 else text[:200] + "…"
