"""What the proxies of the tests have in common: a handler that passes a request on, or answers it."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from typing import Any

import requests


class Forwarding(BaseHTTPRequestHandler):
    """Subclasses say in ``answer`` what becomes of a request of any method."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        raise NotImplementedError

    def body(self) -> bytes:
        """What the request carries."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def ask(self, target: str, body: bytes, *without: str) -> requests.Response:
        """The answer of ``target``, to the same request but for the headers ``without`` (small letters)."""
        left_out = {"host", "connection", *without}
        sent = {key: value for key, value in self.headers.items() if key.lower() not in left_out}
        return requests.request(self.command, target + self.path, data=body, headers=sent, timeout=60)

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        """Answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.answer()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""
