"""What every role does: run its loop, listen, know the shared secret."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Coroutine
from typing import Any

import uvloop

from runstream.process.http import inherited_socket, listening_socket, raise_file_limit
from runstream.schemas.errors import ConfigError
from runstream.settings import GatewaySettings, StorageSettings


def run(role: Coroutine[Any, Any, None]) -> None:
    """Run a role's main coroutine on a loop of its own. Raises ``ConfigError`` if it could not open enough files."""
    try:
        raise_file_limit()
    except ConfigError:
        role.close()
        raise
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(role)


def end_within(seconds: float) -> None:
    """End the process by then, whatever its threads are doing. For roles to which being killed does no harm."""
    timer = threading.Timer(seconds, os._exit, [0])
    timer.daemon = True
    timer.start()


def token(settings: GatewaySettings | StorageSettings) -> str:
    """The secret that the roles share. Raises ``ConfigError`` if there is none."""
    secret = settings.internal_token.get_secret_value()
    if not secret:
        raise ConfigError("RUNSTREAM_INTERNAL_TOKEN is not set; give every role the same secret")
    return secret


def listener(settings: GatewaySettings | StorageSettings) -> socket.socket:
    """The role's listening socket: the supervisor's, or one of its own. Gateways of a machine share a port."""
    if settings.fd is not None:
        return inherited_socket(settings.fd)
    return listening_socket(settings.host, settings.port, reuse_port=isinstance(settings, GatewaySettings))
