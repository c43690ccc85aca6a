"""TLS of the gateway's own: a certificate and its key in files, which may be renewed while it runs."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from aiohttp import web

from runstream.schemas.errors import ConfigError

LOOK_EVERY_S = 10.0
# A connection whose handshake takes longer is closed: as long as a request's head may take.
HANDSHAKE_S = 20.0
_log = logging.getLogger(__name__)


class Certificate:
    """``context`` is for listening; every handshake uses the newest whole pair of the two files.

    ``cert_file`` is PEM with the server's certificate first, then those of its issuers; ``key_file`` is its key
    without a password, ``None`` if that is in the same file. TLS 1.2 and 1.3. Raises ``ConfigError`` if the pair
    cannot be used.
    """

    def __init__(self, cert_file: Path, key_file: Path | None = None) -> None:
        self._cert_file = cert_file
        self._key_file = key_file
        self._seen = self._stamp()
        self.context = self._newest = self._load()
        # Loading into a context in use could leave it with one file of the old pair and one of the new.
        self.context.sni_callback = self._choose

    async def watch(self, every_s: float = LOOK_EVERY_S) -> None:
        """Look for renewed files until cancelled. While a new pair is not whole, the last one is used."""
        while True:
            await asyncio.sleep(every_s)
            self.look()

    def look(self) -> None:
        """Use the files from now on if they have changed and belong together."""
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return
            newest = self._load()
        except ConfigError as error:
            _log.warning("the renewed certificate is not used: %s", error)
            return
        self._newest, self._seen = newest, stamp
        _log.info("the certificate was renewed", extra={"file": str(self._cert_file)})

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._newest

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            # Without a password OpenSSL would ask for one at the terminal.
            context.load_cert_chain(self._cert_file, self._key_file, password="")
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise ConfigError(
                f"RUNSTREAM_TLS_CERT_FILE and RUNSTREAM_TLS_KEY_FILE are no certificate with its key: {reason}"
            ) from error
        return context

    def _stamp(self) -> list[tuple[int, int, int]]:
        try:
            # Of what links lead to: that is how Kubernetes and certbot renew.
            stats = [file.stat() for file in (self._cert_file, self._key_file) if file is not None]
        except OSError as error:
            raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from error
        return [(stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]


def certificate_of(cert_file: Path | None, key_file: Path | None) -> Certificate | None:
    """The certificate of these settings, ``None`` if they name none. Raises ``ConfigError``."""
    return Certificate(cert_file, key_file) if cert_file is not None else None


def is_secure(transport: asyncio.BaseTransport | None) -> bool:
    """Whether a connection is encrypted."""
    return transport is not None and transport.get_extra_info("sslcontext") is not None


def tell_hsts(app: web.Application, seconds: int) -> None:
    """Have browsers that came by HTTPS use nothing else for ``seconds``, on every port of the host (RFC 6797)."""

    async def tell(request: web.BaseRequest, response: web.StreamResponse) -> None:
        if is_secure(request.transport):
            response.headers["Strict-Transport-Security"] = f"max-age={seconds}"

    app.on_response_prepare.append(tell)
