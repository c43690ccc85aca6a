"""Request bodies with a ``Content-Encoding``."""

from __future__ import annotations

import zlib

from runstream.schemas.errors import MlflowError

_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_MAX_ENCODINGS = 2
_MAX_GZIP_MEMBERS = 100


def decompress_body(body: bytes, content_encoding: str | None, max_bytes: int) -> bytes:
    """The body as its sender had it before the codings that the header lists (gzip, deflate, identity).

    Raises ``MlflowError``: status 400 for unknown codings and for what does not decompress in full, 413 when
    the result would be larger than ``max_bytes``; never holds more than that. CPU-bound, about 2 ms per
    megabyte of result.
    """
    codings = [coding.strip().lower() for coding in (content_encoding or "").split(",")]
    codings = [coding for coding in codings if coding not in ("", "identity")]
    if len(codings) > _MAX_ENCODINGS:
        raise MlflowError(f"Content-Encoding may name at most {_MAX_ENCODINGS} codings.")
    for coding in reversed(codings):  # listed in the order in which they were applied
        if coding in ("gzip", "x-gzip"):
            body = _inflate(body, coding, _GZIP_WINDOW, max_bytes)
        elif coding == "deflate":
            # zlib's format by the standard, but some clients leave its two-byte header away.
            window = zlib.MAX_WBITS if _has_zlib_header(body) else -zlib.MAX_WBITS
            body = _inflate(body, coding, window, max_bytes)
        else:
            raise MlflowError(f"Content-Encoding '{coding}' is not supported; use gzip, deflate or none.")
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    return body


def _inflate(body: bytes, coding: str, window: int, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    room = max_bytes + 1  # one byte more tells a full body from one that is too large
    for _ in range(_MAX_GZIP_MEMBERS):
        inflater = zlib.decompressobj(window)
        try:
            parts.append(inflater.decompress(body, room))
        except zlib.error as error:
            raise MlflowError(f"The request body is not valid {coding} data: {error}") from None
        room -= len(parts[-1])
        if room <= 0:
            raise _too_large(max_bytes)
        if not inflater.eof:
            raise MlflowError(f"The request body is not valid {coding} data: it ends too early.")
        body = inflater.unused_data
        if not body:
            return b"".join(parts)
        if window != _GZIP_WINDOW:  # only gzip may consist of several members
            raise MlflowError(f"The request body is not valid {coding} data: there is more behind its end.")
    raise MlflowError(f"The request body has more than {_MAX_GZIP_MEMBERS} gzip members.")


def _has_zlib_header(body: bytes) -> bool:
    return len(body) >= 2 and body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0


def _too_large(max_bytes: int) -> MlflowError:
    return MlflowError(f"The request body is larger than {max_bytes} bytes.", "BODY_TOO_LARGE")
