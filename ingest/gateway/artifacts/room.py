"""Artifacts leave alone the room that points need, where both are on one disk."""

from __future__ import annotations

import os
from dataclasses import dataclass

from runstream.ingest.artifacts.errors import StoreUnavailableError

# An upload looks for room again whenever it has brought so much; it may go past the bound by that, and by what the
# store has not written yet.
EACH_BYTES = 4 << 20
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Room:
    """``keep_free_bytes`` of the disk of ``folder`` are not for artifacts; ``None``: nobody else needs the disk."""

    folder: str | None = None
    keep_free_bytes: int = 0

    def check(self, size: int = 0) -> None:
        """Raises ``StoreUnavailableError`` if there is no room for ``size`` more bytes. Microseconds, as the folder is
        of this machine."""
        if self.folder is None:
            return
        facts = os.statvfs(self.folder)
        free = facts.f_bavail * facts.f_frsize
        if free - size < self.keep_free_bytes:
            raise StoreUnavailableError(
                f"the artifact store is full: {free // _MIB} MiB are free on its disk,"
                f" {self.keep_free_bytes // _MIB} are kept for points"
            )
