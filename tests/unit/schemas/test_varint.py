"""Seven bits a byte."""

from __future__ import annotations

import pytest
from google.protobuf.internal.encoder import _VarintBytes
from hypothesis import given
from hypothesis import strategies as st

from runstream.schemas.varint import varint


@pytest.mark.parametrize(
    ("number", "encoded"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")]
)
def test_known_bytes(number: int, encoded: bytes) -> None:
    assert varint(number) == encoded


@given(st.integers(0, 2**64 - 1))
def test_as_protobuf_does(number: int) -> None:
    assert varint(number) == _VarintBytes(number)
