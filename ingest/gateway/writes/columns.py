"""Points of one run as columns, straight from what a client has sent: nothing is done for a single point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from runstream.schemas.record import RecordBuilder


@dataclass(slots=True)
class RunColumns:
    """Point ``i`` is ``names[codes[i]]``, ``steps[i]``, ``timestamps[i]`` (Unix, ms), ``values[i]``; arrays of the
    shape ``(P,)`` in uint32, int64, int64 and float64."""

    run_id: str
    names: list[str]
    codes: NDArray[np.uint32]
    steps: NDArray[np.int64]
    timestamps: NDArray[np.int64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.codes)

    def add_to(self, builder: RecordBuilder) -> None:
        """Put them into a queue record."""
        builder.add_columns(self.run_id, self.names, self.codes, self.steps, self.timestamps, self.values)

    @classmethod
    def joined(cls, parts: Sequence[RunColumns]) -> RunColumns:
        """One after the other: points of one run, under one list of names."""
        first = parts[0]
        if len(parts) == 1:
            return first
        return cls(
            first.run_id,
            first.names,
            np.concatenate([part.codes for part in parts]),
            np.concatenate([part.steps for part in parts]),
            np.concatenate([part.timestamps for part in parts]),
            np.concatenate([part.values for part in parts]),
        )

    def cut(self, most: int) -> Iterator[RunColumns]:
        """The same in pieces of at most ``most`` points, each with about as many names as it needs."""
        for at in range(0, len(self), most):
            yield self.between(at, at + most).compact()

    def compact(self) -> RunColumns:
        """The same without names that no point has, if there are more names than points: names cost for each piece."""
        if len(self.names) <= len(self):
            return self
        used, codes = np.unique(self.codes, return_inverse=True)
        names = [self.names[place] for place in used.tolist()]
        return replace(self, names=names, codes=codes.astype(np.uint32))

    def between(self, start: int, end: int) -> RunColumns:
        """Those from ``start`` to before ``end``, without a copy."""
        return RunColumns(
            self.run_id,
            self.names,
            self.codes[start:end],
            self.steps[start:end],
            self.timestamps[start:end],
            self.values[start:end],
        )

    def only(self, kept: NDArray[np.bool_]) -> RunColumns:
        """Those points alone."""
        return RunColumns(
            self.run_id,
            self.names,
            self.codes[kept],
            self.steps[kept],
            self.timestamps[kept],
            self.values[kept],
        )
