"""Where the body of a request ends that the server behind reads: it is passed on piece by piece and only followed here.

What of a chunked body (RFC 9112, section 7.1) is not written as the grammar has it is left to that server: from there
on the connection is its own.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

from runstream.ingest.gateway.http.framing import NotPlainError

# The largest objects of stores are of 5 TiB, in many chunks.
MAX_CHUNK_BYTES = 1 << 40
_MAX_LINE_BYTES = 16 << 10
# In place of a chunk that cannot be meant: no server takes it, whatever it is doing.
_NO_CHUNK = b"10000000000000000\r\n"
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[^\r\n\0]*)?\r\n")


class HugeChunkError(Exception):
    """A chunk announces what cannot be meant: it would not come in a lifetime. The first ``before`` bytes of the piece
    are what came before it."""

    def __init__(self, before: int) -> None:
        super().__init__("a chunk announces too much")
        self.before = before


class Body(Protocol):
    """A body that is being passed on. ``ended`` is true after its last byte."""

    ended: bool

    def follow(self, data: bytes) -> int:
        """How many of these next bytes are the body's: all, or fewer where it ends. Raises ``HugeChunkError``, and
        ``NotPlainError`` for what only the server behind can judge."""
        ...


class Split(NamedTuple):
    """``pass_on`` is for the server behind, ``rest`` what came after the body. Not ``followed``: the server behind has
    to read all that is still to come."""

    pass_on: bytes
    rest: bytes
    followed: bool


def split(body: Body, data: bytes) -> Split:
    """What to do with the next bytes of a connection on which ``body`` is being passed on."""
    try:
        size = body.follow(data)
    except NotPlainError:
        return Split(data, b"", followed=False)
    except HugeChunkError as huge:
        return Split(data[: huge.before] + _NO_CHUNK, b"", followed=False)
    return Split(data[:size], data[size:], followed=True)


class Counted:
    """A body of a length that its head told, above 0."""

    __slots__ = ("_left", "ended")

    def __init__(self, size: int) -> None:
        self._left = size
        self.ended = False

    def follow(self, data: bytes) -> int:
        """See ``Body``."""
        size = min(self._left, len(data))
        self._left -= size
        self.ended = not self._left
        return size


class Chunked:
    """A body in chunks, with what may follow the last of them."""

    __slots__ = ("_in_trailers", "_left", "_line", "ended")

    def __init__(self) -> None:
        self.ended = False
        self._left = 0  # of the chunk under way, its CR LF included
        self._line = b""  # what has come of a line
        self._in_trailers = False

    def follow(self, data: bytes) -> int:
        """See ``Body``."""
        at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            begin, end = at, data.find(b"\n", at) + 1
            at = end or len(data)
            self._line += data[begin:at]
            if len(self._line) > _MAX_LINE_BYTES:
                raise NotPlainError
            if not end:
                break
            line, self._line = self._line, b""
            if not self._in_trailers:
                size = _size(line)
                if size > MAX_CHUNK_BYTES:
                    raise HugeChunkError(begin)
                self._left = size + 2 if size else 0
                self._in_trailers = not size
            elif not line.endswith(b"\r\n"):
                raise NotPlainError
            elif line == b"\r\n":
                self.ended = True
                break
        return at


def _size(line: bytes) -> int:
    found = _SIZE.fullmatch(line)
    if found is None:
        raise NotPlainError
    return int(found[1], 16)
