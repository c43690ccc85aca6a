"""Numbers of seven bits a byte, the least first, as ClickHouse's formats and protobuf have them."""

from __future__ import annotations


def varint(number: int) -> bytes:
    """LEB128 of a number that is not negative."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
