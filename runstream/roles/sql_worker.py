"""The process that runs users' SQL beside an embedded engine: ``python -m runstream.roles.sql_worker FOLDER FD``.

It has an engine of its own over links to the table's parts, so that whatever a statement does, and however it is ended,
touches nobody else. ``runstream.roles.sql_process`` starts, asks and ends it.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import socket
import sys
from pathlib import Path

from runstream.clickhouse import connect
from runstream.clickhouse.linked import LinkedTable, PartsGoneError
from runstream.query.sql.statement import answer
from runstream.schemas.errors import MlflowError
from runstream.schemas.ports.database import Database, DatabaseError
from runstream.schemas.sql_wire import (
    LENGTH,
    Ask,
    Failed,
    PartsGone,
    Ready,
    Refused,
    Reply,
    Result,
    ask_of,
    frame,
)
from runstream.serve.lifeline import die_with_parent

# The engine counts what it allocates up to the first bound; the second, on addresses, is for what it does not count.
_ENGINE_MEMORY_BYTES = 1_500_000_000
_ADDRESSES_BYTES = 10 << 30
# Whoever writes or reads histories comes first.
_NICE = 10
_FIRST_TO_BE_KILLED = "1000"


def main(folder: str, descriptor: int) -> None:
    """Answer until the other end closes the socket."""
    die_with_parent()
    _bound()
    channel = socket.socket(fileno=descriptor)
    database = connect(f"chdb://{folder}?max_server_memory_usage={_ENGINE_MEMORY_BYTES}")
    table = LinkedTable(database)
    # Only now: starting is what somebody waits for.
    os.nice(_NICE)
    channel.sendall(frame(Ready()))
    while (ask := _next(channel)) is not None:
        _allow_cpu(ask.max_cpu_s)
        channel.sendall(_frame_of(_reply(database, table, ask)))
    # The folder goes with the process: nothing needs to be closed in order.
    os._exit(0)


def _bound() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES_BYTES, _ADDRESSES_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_BE_KILLED)


def _allow_cpu(seconds: float) -> None:
    """Let the kernel end this process when it has used ``seconds`` more."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(usage.ru_utime + usage.ru_stime + seconds) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _reply(database: Database, table: LinkedTable, ask: Ask) -> Reply:
    try:
        table.follow(ask.parts)
        return Result(answer(database, ask.statement, max_query_s=ask.max_query_s))
    except PartsGoneError:
        return PartsGone()
    except MlflowError as error:
        return Refused(error.message, error.code)
    except DatabaseError as error:
        return Failed(str(error), error.code, error.retryable)


def _frame_of(reply: Reply) -> bytes:
    try:
        return frame(reply)
    except ValueError:
        return frame(Refused("The result is too large", "INVALID_PARAMETER_VALUE"))


def _next(channel: socket.socket) -> Ask | None:
    head = _exactly(channel, LENGTH.size)
    body = _exactly(channel, LENGTH.unpack(head)[0]) if head else b""
    return ask_of(body) if body else None


def _exactly(channel: socket.socket, count: int) -> bytes:
    """So many bytes, or none once the other end is closed."""
    parts = bytearray()
    while len(parts) < count:
        part = channel.recv(min(count - len(parts), 1 << 20))
        if not part:
            return b""
        parts += part
    return bytes(parts)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
