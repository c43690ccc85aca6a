"""What a writer tells of its inserts, to whoever keeps points of the table in memory."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol


class RunSet(Protocol):
    """A set of runs that are told apart only when somebody asks."""

    def among(self, runs: Collection[str]) -> set[str]:
        """Which of ``runs`` are here."""
        ...


class InsertWatch(Protocol):
    """Told by a writer, on its event loop; must not block."""

    def inserting(self, runs: RunSet) -> None:
        """From now on readers may or may not see further points of these runs. One insert at a time."""
        ...

    def inserted(self) -> None:
        """All of them are there to be seen; nobody who waited for them has been told yet."""
        ...
