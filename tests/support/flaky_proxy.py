"""A proxy as load balancers are on a bad day: every other request is answered 502, by turns before and after the server
behind has done what it asks for."""

from __future__ import annotations

import itertools
import threading
from http.server import ThreadingHTTPServer
from types import TracebackType

from support.forwarding import Forwarding


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

    def _handler(proxy) -> type[Forwarding]:  # noqa: N805
        class Handler(Forwarding):
            def answer(self) -> None:
                body = self.body()
                with proxy._lock:
                    turn = next(proxy._turns)
                    proxy.failed += turn != "pass"
                if turn == "before":
                    self.reply(502, b"<html>Bad Gateway</html>")
                    return
                answer = self.ask(proxy._target, body)
                if turn == "after":
                    self.reply(502, b"<html>Bad Gateway</html>")
                else:
                    self.reply(answer.status_code, answer.content)

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
