"""Many names as one column: the dictionaries of records and blocks, without a Python string per name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, SupportsIndex, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_CONTINUATION_MASK, _CONTINUATION = 0xC0, 0x80


class Names(Sequence[str]):
    """Names joined without separators in ``raw`` (UTF-8); ``lengths`` (uint32, in bytes) says where each ends.

    A sequence of ``str`` to whoever wants one; what handles all of them at once stays in compiled code, at
    about 0.1 µs a name. Immutable.
    """

    __slots__ = ("_arrow", "lengths", "raw")

    def __init__(self, raw: bytes, lengths: NDArray[np.uint32]) -> None:
        """``raw`` has to be what the class says; ``decode`` checks it."""
        self.raw = raw
        self.lengths = lengths
        self._arrow: pa.LargeStringArray | None = None

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Any names; costs nothing if they are ``Names`` already."""
        if isinstance(names, Names):
            return names
        encoded = [name.encode() for name in names]
        return cls(b"".join(encoded), np.fromiter(map(len, encoded), np.uint32, len(encoded)))

    @classmethod
    def decode(cls, raw: bytes, lengths: NDArray[np.uint32]) -> Names:
        """Names from outside; raises ``ValueError`` unless every single one is UTF-8."""
        if int(lengths.sum(dtype=np.uint64)) != len(raw):
            raise ValueError("the lengths of the names do not add up")
        if not raw.isascii():
            raw.decode()
            # All of it is UTF-8; so is each name if none begins in the middle of a character.
            starts = np.cumsum(lengths, dtype=np.int64) - lengths
            first = np.frombuffer(raw, np.uint8)[starts[lengths > 0]]
            if ((first & _CONTINUATION_MASK) == _CONTINUATION).any():
                raise ValueError("a name ends in the middle of a character")
        return cls(raw, lengths)

    @classmethod
    def joined(cls, parts: Sequence[Names]) -> Names:
        """One after the other, repetitions included."""
        return cls(b"".join([part.raw for part in parts]), np.concatenate([part.lengths for part in parts]))

    @property
    def size_bytes(self) -> int:
        """About what they take in memory."""
        return len(self.raw) + 4 * len(self.lengths)

    def distinct(self) -> tuple[Names, NDArray[np.uint32]]:
        """Each name once, by first appearance, and for every name here its place among those."""
        encoded = self._array().dictionary_encode()
        once = encoded.dictionary
        _, offsets, data = once.buffers()
        ends = np.frombuffer(offsets, np.int64, len(once) + 1)
        raw = data.to_pybytes()[: int(ends[-1])] if data is not None else b""
        return Names(raw, np.diff(ends).astype(np.uint32)), encoded.indices.to_numpy().astype(np.uint32)

    def ranks(self) -> NDArray[np.int64]:
        """Each name's place in code point order, which is the order of UTF-8, Python, SQLite and COLLATE "C"."""
        ranks = np.empty(len(self), np.int64)
        ranks[pc.array_sort_indices(self._array()).to_numpy()] = np.arange(len(self))
        return ranks

    def pick(self, places: NDArray[Any]) -> list[str]:
        """The names at these places, as strings."""
        picked: list[str] = self._array().take(pa.array(places)).to_pylist()
        return picked

    def characters(self) -> NDArray[np.int64]:
        """The length of each name in characters."""
        return np.asarray(pc.utf8_length(self._array()).to_numpy(), np.int64)

    def containing(self, text: str) -> NDArray[np.bool_]:
        """Which names contain ``text``."""
        if text.encode() not in self.raw:
            return np.zeros(len(self), np.bool_)
        return np.asarray(pc.match_substring(self._array(), text).to_numpy(zero_copy_only=False), np.bool_)

    def _array(self) -> pa.LargeStringArray:
        if self._arrow is None:
            offsets = np.zeros(len(self) + 1, np.int64)
            np.cumsum(self.lengths, out=offsets[1:])
            self._arrow = pa.LargeStringArray.from_buffers(
                len(self), pa.py_buffer(offsets), pa.py_buffer(self.raw)
            )
        return self._arrow

    # As a sequence

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, place: SupportsIndex) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: SupportsIndex | slice) -> str | list[str]:
        if isinstance(place, slice):
            return list(self)[place]
        name: str = self._array()[place.__index__()].as_py()
        return name

    def __iter__(self) -> Iterator[str]:
        return iter(self._array().to_pylist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Names({list(self)!r})"
