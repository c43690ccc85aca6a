"""Bodies with a Content-Encoding, bounded."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.ingest.gateway.http.decompress import decompress_body
from runstream.schemas.errors import MlflowError

LIMIT = 10_000


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


@given(st.binary(max_size=LIMIT))
def test_every_coding_gives_the_body_back(body: bytes) -> None:
    for coding, packed in (
        (None, body),
        ("", body),
        ("identity", body),
        ("gzip", gzip.compress(body)),
        (" GZIP ", gzip.compress(body)),
        ("x-gzip", gzip.compress(body)),
        ("deflate", zlib.compress(body)),
        ("deflate, identity, gzip", gzip.compress(zlib.compress(body))),
        ("gzip", gzip.compress(body[:3]) + gzip.compress(body[3:])),
    ):
        assert decompress_body(packed, coding, LIMIT) == body


@given(st.text(max_size=200).map(str.encode))
def test_deflate_without_its_header(body: bytes) -> None:
    packed = raw_deflate(body)
    if int.from_bytes(packed[:2]) % 31 or packed[0] & 0x0F != 8:  # else it looks as if it had one
        assert decompress_body(packed, "deflate", LIMIT) == body


def test_the_limit_is_exact() -> None:
    for coding, pack in (("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)):
        assert len(decompress_body(pack(b"x" * LIMIT), coding, LIMIT)) == LIMIT
        with pytest.raises(MlflowError) as refused:
            decompress_body(pack(b"x" * (LIMIT + 1)), coding, LIMIT)
        assert refused.value.code == "BODY_TOO_LARGE"


@pytest.mark.parametrize("codings", ["gzip", "gzip, gzip"])
def test_a_bomb_is_never_unpacked(codings: str) -> None:
    body = b" " * 50_000_000
    for _ in codings.split(","):
        body = gzip.compress(body)
    tracemalloc.start()
    try:
        with pytest.raises(MlflowError) as refused:
            decompress_body(body, codings, LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.code == "BODY_TOO_LARGE"
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", b""),
        ("gzip", b"{}"),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-1]),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"x"),
        ("gzip", gzip.compress(b"", mtime=0) * 1000),
        ("deflate", b""),
        ("deflate", zlib.compress(b"{}") + b"x"),
        ("deflate", zlib.compress(b"{}")[:-1]),
        ("br", b"{}"),
        ("zstd", b"{}"),
        ("gzip, gzip, gzip", b"{}"),
    ],
)
def test_what_does_not_unpack_is_refused(coding: str, body: bytes) -> None:
    with pytest.raises(MlflowError) as refused:
        decompress_body(body, coding, LIMIT)
    assert refused.value.code == "INVALID_PARAMETER_VALUE"


@given(st.binary(max_size=100), st.sampled_from(["gzip", "deflate", "gzip, deflate"]))
def test_garbage_is_refused_or_small(body: bytes, coding: str) -> None:
    code, size = "", 0
    try:
        size = len(decompress_body(body, coding, LIMIT))
    except MlflowError as error:
        code = error.code
    assert code in ("", "INVALID_PARAMETER_VALUE", "BODY_TOO_LARGE")
    assert size <= LIMIT
