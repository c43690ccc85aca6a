"""A proxy as load balancers are on a bad day: every other request is answered 502, by turns before and after the server
behind has done what it asks for."""

from __future__ import annotations

import itertools
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import requests


class FlakyProxy:
    """Serves ``target`` at ``url``; ``failed`` counts the 502s."""

    def __init__(self, target: str) -> None:
        self.failed = 0
        self._target = target
        self._turns = itertools.cycle(("pass", "before", "pass", "after"))
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def _handler(proxy) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with proxy._lock:
                    turn = next(proxy._turns)
                    proxy.failed += turn != "pass"
                if turn == "before":
                    self.reply(502, b"<html>Bad Gateway</html>")
                    return
                sent = {
                    key: value
                    for key, value in self.headers.items()
                    if key.lower() not in ("host", "connection")
                }
                answer = requests.request(
                    self.command, proxy._target + self.path, data=body, headers=sent, timeout=60
                )
                if turn == "after":
                    self.reply(502, b"<html>Bad Gateway</html>")
                else:
                    self.reply(answer.status_code, answer.content)

            def reply(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        return Handler

    def __enter__(self) -> FlakyProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
