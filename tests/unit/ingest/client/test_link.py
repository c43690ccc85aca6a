"""The way to a server: credentials of the moment, failures told apart, and one bad file in nobody's way."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from runstream.ingest.client.link import AwayError, DeniedError, Link
from runstream.ingest.client.sender import Sender
from runstream.ingest.client.spool import RunSpool, run_folder
from runstream.schemas import frame

Answer = tuple[int, dict[str, Any]]


class Server:
    """Answers what ``rule`` says, and remembers the credentials of every request."""

    def __init__(self) -> None:
        self.rule: Any = lambda _path, _body: (200, {})
        self.given: list[str] = []
        self.headers: list[dict[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                server.given.append(self.headers.get("Authorization", ""))
                server.headers.append(dict(self.headers))
                status, value = server.rule(self.path, body)
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in (
        "MLFLOW_TRACKING_TOKEN",
        "MLFLOW_TRACKING_USERNAME",
        "RUNSTREAM_TOKEN_FILE",
        "MLFLOW_WORKSPACE",
    ):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever)
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join()


def test_every_request_has_the_credentials_of_the_moment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, tokens = tmp_path / "token", iter("abcdef")
    by_provider, by_environment = Link(server.url, lambda: next(tokens)), Link(server.url)
    for _ in range(2):
        by_provider.call("GET", "/x", None)
    for token in ("one", "two"):
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
        by_environment.call("GET", "/x", None)
    monkeypatch.setenv("RUNSTREAM_TOKEN_FILE", str(file))
    for token in ("three\n", "four"):
        file.write_text(token)
        by_environment.call("GET", "/x", None)
    wanted = ["a", "b", "one", "two", "three", "four"]
    assert server.given == [f"Bearer {token}" for token in wanted]


def test_after_401_fresh_ones_are_tried_at_once_and_only_then_it_is_denied(server: Server) -> None:
    tokens = iter(("old", "new", "old", "old"))
    link = Link(server.url, lambda: next(tokens))
    server.rule = lambda _path, _body: (200, {}) if server.given[-1] == "Bearer new" else (401, {})
    link.call("GET", "/x", None)
    assert link.state.state == "up"
    with pytest.raises(DeniedError):
        link.call("GET", "/x", None)
    assert (link.state.state, server.given[-2:]) == ("denied", ["Bearer old", "Bearer old"])


def test_a_provider_that_fails_is_denied_and_not_away(server: Server, tmp_path: Path) -> None:
    def fail() -> str:
        raise RuntimeError("the metadata service is down")

    link = Link(server.url, fail)
    with pytest.raises(DeniedError):
        link.call("GET", "/x", None)
    assert "metadata service" in link.state.reason


def spooled(spool: Path, uri: str, run_id: str) -> tuple[Path, bool]:
    made = RunSpool(run_folder(spool, run_id), {"run_id": run_id, "uri": uri}, lambda *_: None)
    made.record(frame.TAGS, {"of": run_id})
    made.close()
    return made.parts[0].path, True


def sender(spool: Path, uri: str, said: dict[str, str]) -> Sender:
    files = [spooled(spool, uri, run_id) for run_id in ("a" * 32, "b" * 32)]
    return Sender(Link(uri), spool, lambda: files, said.__setitem__)


@pytest.mark.parametrize(("status", "code"), [(500, "INTERNAL_ERROR"), (403, "PERMISSION_DENIED")])
def test_a_run_that_the_server_does_not_take_now_holds_up_no_other(
    server: Server, tmp_path: Path, status: int, code: str
) -> None:
    taken: list[str] = []

    def rule(path: str, body: bytes) -> Answer:
        if not path.endswith("log-batch"):
            return 404, {}
        run_id = json.loads(body)["run_id"]
        if run_id.startswith("a"):
            return status, {"error_code": code, "message": "not this one"}
        taken.append(run_id)
        return 200, {}

    server.rule = rule
    sending = sender(tmp_path, server.url, {})
    assert not sending.attempt(time.monotonic() + 60)
    assert taken == ["b" * 32]
    server.rule = lambda _path, _body: (200, {})
    assert sending.attempt(time.monotonic() + 60)
    assert sending.left() == 0


def test_expired_for_so_many_minutes_is_not_unreachable_for_so_many(server: Server, tmp_path: Path) -> None:
    said: dict[str, str] = {}
    sending = sender(tmp_path, server.url, said)
    server.rule = lambda _path, _body: (401, {"message": "the token has expired"})
    for _ in range(2):
        assert not sending.attempt(time.monotonic() + 60)
        sending.link.state.since -= 300.0
    assert "not accepted (401 the token has expired), for 5 minutes now" in said["denied"]
    assert "away" not in said
    sending.link.uri = "http://127.0.0.1:9"
    for _ in range(2):
        assert not sending.attempt(time.monotonic() + 60)
        sending.link.state.since -= 300.0
    assert "unreachable for 5 minutes:" in said["away"]


def test_no_request_is_waited_for_beyond_the_deadline(tmp_path: Path) -> None:
    """A server that takes everything and answers nothing; without a deadline this would be half a minute."""
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen(8)
        link = Link(f"http://127.0.0.1:{held.getsockname()[1]}")
        link.deadline = time.monotonic() + 0.5
        begun = time.monotonic()
        with pytest.raises(AwayError):
            link.call("GET", "/x", None, timeout_s=120.0)
        assert time.monotonic() - begun < 60


def test_requests_name_the_workspace_that_mlflow_would(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "mlflow.utils.workspace_context", raising=False)
    monkeypatch.setenv("MLFLOW_WORKSPACE", "team-a")
    link = Link(server.url)
    link.call("GET", "/x", None)
    link.workspace = "team-b"
    link.call("GET", "/x", None)
    assert [headers.get("X-MLFLOW-WORKSPACE") for headers in server.headers] == ["team-a", "team-b"]


def test_what_comes_during_a_request_waits_for_the_next_turn(server: Server, tmp_path: Path) -> None:
    """A training always logs something while a request is under way: sent at once, every few points are a request."""
    made = RunSpool(run_folder(tmp_path, "a" * 32), {"run_id": "a" * 32, "uri": server.url}, lambda *_: None)
    made.record(frame.TAGS, {"at": "0"})
    asked: list[str] = []

    def rule(path: str, _: bytes) -> Answer:
        if not path.endswith("log-batch"):
            return 404, {}
        asked.append(path)
        if len(asked) <= 5:
            made.record(frame.TAGS, {"at": str(len(asked))})
        return 200, {}

    server.rule = rule
    sending = Sender(
        Link(server.url), tmp_path, lambda: [(part.path, True) for part in made.parts], lambda *_: None
    )
    for turn in range(1, 7):
        assert sending.attempt(time.monotonic() + 60)
        assert len(asked) == turn
    made.close()
    assert sending.attempt(time.monotonic() + 60)
    assert (len(asked), sending.left()) == (6, 0)
