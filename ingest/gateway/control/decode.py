"""Requests into changes: those that are spelled plainly, which are nearly all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec

from runstream.ingest.control.errors import PassOnError

C = TypeVar("C", bound=msgspec.Struct)
# Databases cannot hold it, or take it for the end of a text.
_NUL = b"\\u0000"


def decode(decoder: msgspec.json.Decoder[C], body: bytes, content_type: str | None) -> C:
    """What a body asks for. Raises ``PassOnError``."""
    if content_type is None or content_type.split(";", 1)[0] != "application/json" or _NUL in body:
        raise PassOnError
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise PassOnError from None


def only(query: str, *names: str) -> Mapping[str, str]:
    """The parameters of a query that has none but these, each at most once. Raises ``PassOnError``."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError:
        raise PassOnError from None
    found = dict(pairs)
    if len(found) != len(pairs) or not found.keys() <= set(names) or "\0" in query or "%00" in query:
        raise PassOnError
    return found
