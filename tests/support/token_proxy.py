"""A server behind a token that expires: a reverse proxy that knows one token at a time, and one for MLflow's client."""

from __future__ import annotations

import secrets
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from support.forwarding import Forwarding


class TokenProxy:
    """While ``renewing``, a new token is in ``file`` every ``every_s`` seconds, and the old one is refused at once.
    ``lasting`` is accepted too, but not for ``Runstream``'s client. Counts what it has ``refused`` and ``renewed``."""

    def __init__(self, target: str, file: Path, every_s: float) -> None:
        self.file = file
        self.lasting = secrets.token_hex(8)
        self.renewing = True
        self.refused = self.renewed = 0
        self._target = target
        self._every_s = every_s
        self._token = self._coming = ""
        self._over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._threads = [threading.Thread(target=work) for work in (self._server.serve_forever, self._expire)]

    def renew(self) -> None:
        """A new token, in the file; the old one is refused from then on."""
        new, beside = secrets.token_hex(8), self.file.with_suffix(".new")
        beside.write_text(new)
        self._coming = new
        beside.rename(self.file)
        self._token = new
        self.renewed += 1

    def spoil(self) -> None:
        """The token in the file is no longer accepted."""
        self._token = self._coming = secrets.token_hex(8)

    def _expire(self) -> None:
        while not self._over.wait(self._every_s):
            if self.renewing:
                self.renew()
            else:
                self.spoil()

    def _handler(proxy) -> type[Forwarding]:  # noqa: N805
        class Handler(Forwarding):
            def answer(self) -> None:
                body = self.body()
                given = self.headers.get("Authorization", "")
                ours = self.headers.get("User-Agent", "").startswith("runstream-client")
                taken = (proxy._token, proxy._coming) if ours else (proxy.lasting,)
                if given not in [f"Bearer {token}" for token in taken]:
                    proxy.refused += 1
                    self.reply(401, b'{"message": "the token has expired"}', Content_Type="application/json")
                    return
                answer = self.ask(proxy._target, body, "authorization")
                self.reply(answer.status_code, answer.content, Content_Type="application/json")

        return Handler

    def __enter__(self) -> TokenProxy:
        self.renew()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join(10)
