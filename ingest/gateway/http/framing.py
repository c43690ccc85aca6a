"""Where one HTTP request ends and the next begins, and no more than that.

The connection needs exact boundaries and nothing else of HTTP. Whatever is not plain (upgrades, codings other
than chunks, folded or odd header lines, HTTP/1.0, …) is not judged here: the connection then belongs to the full
server.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from runstream.schemas.errors import MlflowError

MeaningT = TypeVar("MeaningT")

# MLflow's server takes lines and fields of some 64 KiB each, and more if they come in one piece.
MAX_HEAD_BYTES = 256 << 10
MAX_HEADERS = 1_000
_END = b"\r\n\r\n"
_BARE_NEWLINE = re.compile(rb"(?<!\r)\n")
_ODD = re.compile(rb"[\r\n\0]")
_REMEMBERED_BYTES = 1024
# Fields that mean one thing and decide something: a second one is not joined to the first.
_SINGLE = frozenset(
    (
        b"authorization",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"cookie",
        b"host",
        b"origin",
        b"x-mlflow-workspace",
    )
)


@dataclass(slots=True)
class Head:
    """The head of a plain request. Names of ``headers`` are lower case; ``size`` counts its bytes, end included. The
    body has ``body_bytes``, or is ``chunked``."""

    line: bytes
    headers: dict[bytes, bytes]
    size: int
    body_bytes: int
    chunked: bool = False


class Heads(Generic[MeaningT]):
    """Reads heads and remembers what they mean: a client sends nearly the same bytes before each of its requests.

    Belongs to one event loop. At most ``limit`` heads of at most a kilobyte; starts over when there would be more.
    """

    def __init__(self, understand: Callable[[Head], MeaningT], limit: int = 1000) -> None:
        self._understand = understand
        self._limit = limit
        self._known: dict[bytes, MeaningT] = {}

    def read(self, data: bytes | bytearray, begin: int = 0) -> MeaningT | None:
        """What ``read_head(data, begin)`` means; ``None`` and errors as there."""
        end = data.find(_END, 0, _REMEMBERED_BYTES)
        raw = bytes(data[:end]) if end >= 0 else None
        meaning = self._known.get(raw) if raw is not None else None
        if meaning is None:
            head = read_head(data, begin)
            if head is None:
                return None
            meaning = self._understand(head)
            if raw is not None:
                if len(self._known) >= self._limit:
                    self._known.clear()
                self._known[raw] = meaning
        return meaning


class NotPlainError(Exception):
    """The full server has to read this connection from here on."""


def read_head(data: bytes | bytearray, begin: int = 0) -> Head | None:
    """The head at the start of ``data``, or ``None`` if it is not whole yet; its first ``begin`` bytes have been
    looked through before. Raises ``NotPlainError``, and ``MlflowError`` for what nobody has to read on."""
    begin = max(0, begin - len(_END))
    end = data.find(_END, begin)
    if end < 0:
        # RFC 9112, section 2.2: a lone newline may be taken for the end of a line. Here it is refused, at once.
        if _BARE_NEWLINE.search(data, begin + 1 if begin else 0):
            raise MlflowError("Lines of the request's head must end with CR LF")
        if len(data) > MAX_HEAD_BYTES:
            raise _too_large()
        return None
    if end > MAX_HEAD_BYTES:
        raise _too_large()
    line, *rows = bytes(data[:end]).split(b"\r\n")
    if len(rows) > MAX_HEADERS:
        raise _too_large()
    if not line.endswith(b" HTTP/1.1") or not line[:1].isalpha() or _ODD.search(line):
        raise NotPlainError
    headers = _fields(rows)
    if b"upgrade" in headers:
        raise NotPlainError
    if (coding := headers.get(b"transfer-encoding")) is not None:
        if coding.lower() != b"chunked" or b"content-length" in headers:
            raise NotPlainError
        return Head(line, headers, end + len(_END), 0, chunked=True)
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 18:
        raise NotPlainError
    return Head(line, headers, end + len(_END), int(length))


def _fields(rows: list[bytes]) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for row in rows:
        name, colon, value = row.partition(b":")
        # RFC 9112: no space before the colon, no folding; a lone CR, LF or NUL is an attack or a mistake.
        if not colon or not name or b" " in name or b"\t" in name or _ODD.search(row):
            raise NotPlainError
        name, value = name.lower(), value.strip(b" \t")
        if name not in headers:
            headers[name] = value
        elif name in _SINGLE:
            raise NotPlainError
        else:
            headers[name] += b", " + value
    return headers


def _too_large() -> MlflowError:
    return MlflowError(
        f"The request's head is larger than {MAX_HEAD_BYTES} bytes or has more than {MAX_HEADERS} fields",
        "HEAD_TOO_LARGE",
    )
