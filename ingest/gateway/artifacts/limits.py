"""Bounds how many artifacts one run or model may have."""

from __future__ import annotations

import time
from collections.abc import Callable

from cachetools import FIFOCache

from runstream.ingest.artifacts.errors import (
    ArtifactError,
    ArtifactTooLargeError,
    NoSuchArtifactError,
)
from runstream.ingest.artifacts.protocol import ArtifactStore

_TTL_S = 30.0
_MAX_OWNERS = 10_000


class FileCounts:
    """Counts the artifacts below each owner (a run, a model), and remembers the numbers for half a minute: several
    gateways can together pass the limit by what they take in that time. No limit, no cost."""

    def __init__(self, max_files: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_files = max_files
        self._clock = clock
        self._numbers: FIFOCache[str, tuple[int, float]] = FIFOCache(_MAX_OWNERS)

    @property
    def limits(self) -> bool:
        """Whether there is a limit."""
        return self._max_files is not None

    async def check(self, store: ArtifactStore, path: str) -> None:
        """Raises ``ArtifactTooLargeError`` if a new artifact at ``path`` would be one too many."""
        if self._max_files is None:
            return
        owner = owner_of(path)
        number, until = self._numbers.get(owner, (0, 0.0))
        if until <= self._clock():
            number = await store.count(owner, self._max_files + 1)
            self._numbers[owner] = (number, self._clock() + _TTL_S)
        if number < self._max_files:
            return
        try:
            await store.stat(path)
        except NoSuchArtifactError:
            raise ArtifactTooLargeError(
                f"The limit of {self._max_files} artifacts per run or model is reached"
            ) from None
        except ArtifactError:
            return

    def added(self, path: str) -> None:
        """An artifact was stored; one that was replaced is counted twice until the next look at the store."""
        owner = owner_of(path)
        if owner in self._numbers:
            number, until = self._numbers[owner]
            self._numbers[owner] = (number + 1, until)

    def forget(self, path: str) -> None:
        """Artifacts were deleted."""
        self._numbers.pop(owner_of(path), None)


def owner_of(path: str) -> str:
    """The directory of a run's or model's artifacts: MLflow ends it in ``artifacts``."""
    head, found, _ = path.partition("/artifacts/")
    if found:
        return f"{head}/artifacts"
    return path.rpartition("/")[0]
