"""Runs an aiohttp application until the process is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from aiohttp import web
from aiohttp.http import SERVER_SOFTWARE
from aiohttp.http_exceptions import LineTooLong

from runstream.ingest.gateway.http.framing import MAX_HEAD_BYTES, MAX_HEADERS
from runstream.ingest.gateway.http.front import plain_front
from runstream.ingest.gateway.http.whole import count_bodies
from runstream.process.tls import HANDSHAKE_S, Certificate
from runstream.schemas.errors import ConfigError, MlflowError
from runstream.schemas.tasks import kept_running

_BACKLOG = 1024
_NEVER_S = 1e9
# What a gateway adds to a head that it passes on.
_ADDED_BYTES = 16 << 10
_ADDED_HEADERS = 16
_MOST_FILES = 65_536
_LEAST_FILES = 256
_MOST_CONNECTIONS = 20_000
# Files of a process apart from its connections.
_OWN_FILES = 128
_log = logging.getLogger(__name__)


def listening_socket(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    """A listening socket. Several with ``reuse_port`` share one port, and the kernel spreads connections.

    Raises ``ConfigError`` if the port is taken by anybody else: a socket that shares must be the first, so the
    address is tried without sharing before.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}: {error.strerror or error}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} on {host} is in use; choose another with --port") from error
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener


def inherited_socket(descriptor: int) -> socket.socket:
    """A listening socket that the supervisor made."""
    try:
        listener = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError(f"file descriptor {descriptor} is not a socket") from error
    listener.setblocking(False)
    return listener


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM or SIGINT sets; call it inside the loop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


class Front(Protocol):
    """A protocol factory that stands before an aiohttp server on every connection, and bounds what each may cost."""

    def __call__(self) -> asyncio.Protocol:
        """The protocol for a new connection."""
        ...

    async def drain(self) -> None:
        """Finish what is under way and take nothing new."""
        ...


MakeFront = Callable[[web.Server, Callable[[], web.RequestHandler]], Front]


class JsonErrors(web.RequestHandler):
    """aiohttp's protocol; what it refuses by itself, it refuses in MLflow's shape."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """See ``web.RequestHandler``. A sender's mistake is no line in the log, nor is one who has gone."""
        if status >= 500 and not isinstance(exc, ConnectionResetError):
            _log.error("a request failed", exc_info=exc, extra={"path": request.path})
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, so nothing else can be said")
        if isinstance(exc, LineTooLong):
            status = 431
        code, said = ("INTERNAL_ERROR", "Internal server error")
        if status < 500:
            code, said = "INVALID_PARAMETER_VALUE", f"Bad request: {(message or 'malformed').splitlines()[0]}"
        body = MlflowError(said, code).body()
        response = web.Response(status=status, body=body, headers={"Content-Type": "application/json"})
        response.force_close()
        return response


async def serve(
    app: web.Application,
    listener: socket.socket,
    stop: asyncio.Event,
    *,
    drain_s: float,
    front: MakeFront | None = None,
    certificate: Certificate | None = None,
    inner: Sequence[socket.socket] = (),
) -> None:
    """Serve until ``stop`` is set; then accept nothing new, finish what is under way, and clean up.

    With a ``certificate`` callers of ``listener`` speak TLS; those of the ``inner`` listeners never do. ``front``
    receives the aiohttp server and the maker of its protocols; without one, connections have the same bounds and all
    requests go to the application. Requests still unfinished after ``drain_s`` are cancelled.
    """
    app.on_response_prepare.append(_without_name)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=drain_s)
    await runner.setup()
    servers: list[asyncio.Server] = []
    watching: asyncio.Task[None] | None = None
    try:
        handlers = runner.server
        assert handlers is not None
        loop = asyncio.get_running_loop()

        def make() -> web.RequestHandler:
            # The front sees to idle connections and to whole heads; a role behind the gateway gets a little more.
            return JsonErrors(
                handlers,
                loop=loop,
                access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to say none
                auto_decompress=False,
                keepalive_timeout=_NEVER_S,
                max_line_size=MAX_HEAD_BYTES + _ADDED_BYTES,
                max_field_size=MAX_HEAD_BYTES + _ADDED_BYTES,
                max_headers=MAX_HEADERS + _ADDED_HEADERS,
            )

        factory: Front
        if front is not None:
            factory = front(handlers, make)
        else:
            factory = plain = plain_front(make, max_connections())
            count_bodies(handlers, plain.door.arriving)
        if certificate is None:
            servers.append(await loop.create_server(factory, sock=listener, backlog=_BACKLOG))
        else:
            watching = kept_running("watching the certificate", certificate.watch)
            servers.append(
                await loop.create_server(
                    factory,
                    sock=listener,
                    backlog=_BACKLOG,
                    ssl=certificate.context,
                    ssl_handshake_timeout=HANDSHAKE_S,
                )
            )
        for sock in inner:
            servers.append(await loop.create_server(factory, sock=sock, backlog=_BACKLOG))
        await stop.wait()
        for server in servers:
            server.close()
        try:
            async with asyncio.timeout(drain_s):
                await factory.drain()
        except TimeoutError:
            _log.warning("gave up waiting for requests under way")
    finally:
        if watching is not None:
            watching.cancel()
        for server in servers:
            server.close()
        await runner.cleanup()


async def _without_name(_: web.BaseRequest, response: web.StreamResponse) -> None:
    # Which server this is, and its version, is nobody's business; that of a relayed answer is the other server's word.
    if response.headers.get("Server") == SERVER_SOFTWARE:
        del response.headers["Server"]


def raise_file_limit() -> int:
    """Let this process open as many files as it may, and return how many that is.

    The usual limit of 1,024 is there for programs that use ``select``. Raises ``ConfigError`` where there are too few
    to run.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    files = _MOST_FILES if soft == resource.RLIM_INFINITY else soft
    if files < _LEAST_FILES:
        raise ConfigError(
            f"this process may open {files} files and needs {_LEAST_FILES}; raise the limit (ulimit -n)"
        )
    return files


def max_connections() -> int:
    """How many connections this process may hold: each may need one more to a server behind."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _MOST_FILES if soft == resource.RLIM_INFINITY else soft
    return min(_MOST_CONNECTIONS, (files - _OWN_FILES) // 2)
