"""Runs an aiohttp application until the process is told to stop."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Callable
from typing import Protocol

from aiohttp import web

from runstream.schemas.errors import ConfigError

_BACKLOG = 1024
# Longer than clients and load balancers usually keep idle connections, so that they close them, not we.
_KEEPALIVE_S = 75.0
_NEVER_S = 1e9
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
    """A protocol factory that stands before an aiohttp server on every connection."""

    def __call__(self) -> asyncio.Protocol:
        """The protocol for a new connection."""
        ...

    async def drain(self) -> None:
        """Finish what is under way and take nothing new."""
        ...


async def serve(
    app: web.Application,
    listener: socket.socket,
    stop: asyncio.Event,
    *,
    drain_s: float,
    front: Callable[[web.Server], Front] | None = None,
) -> None:
    """Serve until ``stop`` is set; then accept nothing new, finish what is under way, and clean up.

    ``front`` receives the maker of aiohttp's protocols and sees to idle connections itself. Requests still
    unfinished after ``drain_s`` are cancelled.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,
        keepalive_timeout=_KEEPALIVE_S if front is None else _NEVER_S,
        shutdown_timeout=drain_s,
    )
    await runner.setup()
    server: asyncio.Server | None = None
    try:
        handlers = runner.server
        assert handlers is not None
        factory = handlers if front is None else front(handlers)
        server = await asyncio.get_running_loop().create_server(factory, sock=listener, backlog=_BACKLOG)
        await stop.wait()
        server.close()
        if not isinstance(factory, web.Server):
            try:
                async with asyncio.timeout(drain_s):
                    await factory.drain()
            except TimeoutError:
                _log.warning("gave up waiting for requests under way")
    finally:
        if server is not None:
            server.close()
        await runner.cleanup()
