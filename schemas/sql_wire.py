"""What the query service and the process that runs users' SQL say to each other: frames over one socket.

A frame is its length as four bytes, little-endian, then MessagePack. A request is answered before the next one comes.
"""

from __future__ import annotations

import struct

import msgspec

from runstream.schemas.ports.statements import Statement

LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 1 << 30


class Ask(msgspec.Struct, frozen=True, tag=True):
    """Run a statement over these parts (folder by hash of content); ``max_query_s`` and ``max_cpu_s`` bound it."""

    statement: Statement
    parts: dict[str, str]
    max_query_s: float
    max_cpu_s: float


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The process can be asked; sent once, unasked."""


class Result(msgspec.Struct, frozen=True, tag=True):
    """The written result."""

    body: bytes


class PartsGone(msgspec.Struct, frozen=True, tag=True):
    """Parts were gone before they could be linked; nothing was run."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """A ``MlflowError``."""

    message: str
    code: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """A ``DatabaseError``."""

    message: str
    code: int | None
    retryable: bool


Reply = Ready | Result | PartsGone | Refused | Failed


def frame(message: msgspec.Struct) -> bytes:
    """A message as it travels. Raises ``ValueError`` if it is too long."""
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {len(body)} bytes is too long")
    return LENGTH.pack(len(body)) + body


def ask_of(body: bytes) -> Ask:
    """The request in a frame. Raises ``ValueError``."""
    return msgspec.msgpack.decode(body, type=Ask)


def reply_of(body: bytes) -> Reply:
    """The answer in a frame. Raises ``ValueError``."""
    reply: Reply = msgspec.msgpack.decode(body, type=Reply)
    return reply
