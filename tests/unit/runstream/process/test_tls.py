"""HTTPS on real sockets: what is spoken, renewal while it runs, bodies of both sizes, bounds, wrong files."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509

from runstream.ingest.gateway.http.door import Bounds, Door
from runstream.ingest.gateway.http.front import Front
from runstream.ingest.gateway.http.handling import Routes
from runstream.ingest.gateway.http.hosts import HostRules
from runstream.process.http import JsonErrors, serve
from runstream.process.tls import Certificate, tell_hsts
from runstream.schemas.errors import ConfigError
from support.certificates import Authority

LARGE = 8 << 20


@dataclass
class Site:
    authority: Authority
    certificate: Certificate
    cert: Path
    key: Path
    serial: int
    port: int
    inner_port: int

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority.file))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.client(), server_hostname="localhost", limit=1 << 16
        )

    async def shown(self) -> int:
        """The serial number of the certificate that a new connection is shown."""
        _, writer = await self.connect()
        found = x509.load_der_x509_certificate(
            writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        )
        await _close(writer)
        return found.serial_number


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes = b""
) -> tuple[str, bytes]:
    """The head and the body of the answer to a POST."""
    writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    size = next(int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:"))
    return head, await reader.readexactly(size)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    authority = Authority(tmp_path)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    serial = authority.issue(cert, key)
    certificate = Certificate(cert, key)
    app = web.Application(client_max_size=2 * LARGE)
    app.router.add_post("/", echo)
    tell_hsts(app, 300)
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    for listener in listeners:
        listener.setblocking(False)
    port, inner_port = (listener.getsockname()[1] for listener in listeners)
    stop = asyncio.Event()
    serving = asyncio.create_task(
        serve(app, listeners[0], stop, drain_s=10, certificate=certificate, inner=listeners[1:])
    )
    async with asyncio.timeout(120):
        yield Site(authority, certificate, cert, key, serial, port, inner_port)
        stop.set()
        await serving


async def test_callers_are_encrypted_and_this_machines_own_roles_are_not(site: Site) -> None:
    reader, writer = await site.connect()
    assert writer.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
    for body in (b"", b"x", bytes(LARGE)):
        head, answered = await _ask(reader, writer, body)
        assert head.startswith("HTTP/1.1 200")
        assert answered == body
        assert "Strict-Transport-Security: max-age=300\r\n" in head
    await _close(writer)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.inner_port)
    head, answered = await _ask(reader, writer, b"inner")
    assert answered == b"inner"
    assert "Strict-Transport-Security" not in head
    await _close(writer)


async def test_what_is_not_tls_of_today_is_refused_and_harms_nobody(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    with contextlib.suppress(OSError):
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        assert not (await reader.read()).startswith(b"HTTP")
    await _close(writer)
    old = site.client()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", site.port, ssl=old, server_hostname="localhost")
    assert await site.shown() == site.serial


async def test_a_renewed_certificate_is_shown_once_it_is_whole(site: Site) -> None:
    reader, writer = await site.connect()
    new_cert, new_key = site.cert.with_suffix(".new"), site.key.with_suffix(".new")
    new_serial = site.authority.issue(new_cert, new_key)
    shutil.copy(new_cert, site.cert)
    site.certificate.look()  # the certificate without its key
    assert await site.shown() == site.serial
    site.key.unlink()
    site.certificate.look()
    assert await site.shown() == site.serial
    shutil.copy(new_key, site.key)
    watching = asyncio.create_task(site.certificate.watch(every_s=0.01))
    while await site.shown() != new_serial:
        await asyncio.sleep(0.01)
    watching.cancel()
    _, answered = await _ask(reader, writer, b"old connections go on")
    assert answered == b"old connections go on"
    await _close(writer)


async def test_who_is_slow_is_told_so_over_tls(site: Site) -> None:
    class Uncounted:
        def request(self, route: str) -> None: ...
        def refused(self, reason: str) -> None: ...

    def never() -> JsonErrors:
        raise AssertionError("no request came whole")

    door = Door(
        Routes(Uncounted(), max_body_bytes=0, retry_after_s=1), HostRules("*"), never, Bounds(head_s=0.3)
    )
    server = await asyncio.get_running_loop().create_server(
        Front(door), "127.0.0.1", 0, ssl=site.certificate.context
    )
    try:
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=site.client(), server_hostname="localhost"
        )
        writer.write(b"POST / HTT")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 408")
        await _close(writer)
    finally:
        server.close()


def test_files_that_are_no_pair_are_told_in_one_line(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key, other = tmp_path / "cert", tmp_path / "key", tmp_path / "other"
    authority.issue(cert, key)
    authority.issue(tmp_path / "spare", other)
    with pytest.raises(ConfigError, match="no certificate with its key"):
        Certificate(cert, other)
    with pytest.raises(ConfigError, match="no certificate with its key"):
        Certificate(cert)
    with pytest.raises(ConfigError, match=r"cannot read .*missing"):
        Certificate(tmp_path / "missing", key)
    authority.issue(cert, key, password=b"secret")
    with pytest.raises(ConfigError, match="no certificate with its key"):
        Certificate(cert, key)  # and nothing is asked for at the terminal
    authority.issue(cert, key)
    both = tmp_path / "both"
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    Certificate(both)
