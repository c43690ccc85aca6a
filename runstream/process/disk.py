"""Room on a disk: how much is kept free, and a file that gives some of it back."""

from __future__ import annotations

import os
from pathlib import Path

_MIB = 1 << 20
_LEAST_BYTES = 32 * _MIB
_MOST_BYTES = 1 << 30


def free_bytes(folder: Path) -> int:
    """What this user may still write to the folder's disk. Microseconds. Raises ``OSError``."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


def reserve_bytes(folder: Path, chosen: int | None = None) -> int:
    """What is to be kept free on the folder's disk: ``chosen``, or a twentieth of it, 32 MiB to 1 GiB."""
    if chosen is not None:
        return chosen
    facts = os.statvfs(folder)
    return min(max(facts.f_blocks * facts.f_frsize // 20, _LEAST_BYTES), _MOST_BYTES)


class Ballast:
    """A file of ``size`` bytes that holds nothing. When others have filled the disk, its room is there for what must
    be finished and put in order. Blocks; raises ``OSError``."""

    def __init__(self, path: Path, size: int) -> None:
        self.size = size
        self._path = path

    def hold(self) -> None:
        """Take the room, as far as it is not taken yet."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self.size)
        except OSError:
            os.ftruncate(descriptor, 0)
            raise
        finally:
            os.close(descriptor)

    def release(self) -> bool:
        """Give the room back; whether there was any."""
        try:
            held = self._path.stat().st_blocks > 0
            os.truncate(self._path, 0)
        except FileNotFoundError:
            return False
        return held
