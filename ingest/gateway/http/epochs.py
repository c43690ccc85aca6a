"""Change counters that all gateway processes of one machine share.

A cached verdict about a run ("it exists and is active") is good only while the run's lifecycle is unchanged. A
gateway that passes on ``runs/delete`` bumps the run's counter; every other process compares the counter it saw
when it asked with the counter now. Counters live in a small file mapped into memory by all processes; runs share
slots by hash, so a collision only makes a process ask once more.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
import zlib
from pathlib import Path

_SLOTS = 4096
# When a change whose answer was lost may have come into effect, after it was lost.
_PERHAPS_LATER_S = (1.0, 5.0, 20.0, 60.0)
_SIZE = (_SLOTS + 1) * 8
_COUNTER = struct.Struct("=Q")


class Epochs:
    """``path=None`` keeps the counters private to this process."""

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            self._map = mmap.mmap(-1, _SIZE)
            return
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # With its blocks: a write into a hole of the file would end the process where the disk is full.
            os.posix_fallocate(descriptor, 0, _SIZE)
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)

    def of(self, run_id: str) -> tuple[int, int]:
        """The run's counter and the counter for everything; equal pairs mean that nothing has changed."""
        return (
            _COUNTER.unpack_from(self._map, self._slot(run_id))[0],
            _COUNTER.unpack_from(self._map, _SLOTS * 8)[0],
        )

    def bump(self, run_id: str | None) -> None:
        """Note a change of one run, or of many (``None``: an experiment, a permission).

        Two processes that bump one slot at the same instant may add one instead of two; the counter still
        differs from what anybody saw before.
        """
        if self._map.closed:
            return  # a late bump of a process that ends
        at = _SLOTS * 8 if run_id is None else self._slot(run_id)
        # The process id keeps two racing writers from storing a value that a third has already seen.
        step = 1 + (os.getpid() & 0xFFFF)
        _COUNTER.pack_into(self._map, at, (_COUNTER.unpack_from(self._map, at)[0] + step) & (2**64 - 1))

    def bump_later(self, run_id: str | None) -> None:
        """Note a change whose answer was lost: it may be made all the same, now or as soon as the server gets to it.
        Call it inside the loop."""
        self.bump(run_id)
        for later_s in _PERHAPS_LATER_S:
            asyncio.get_running_loop().call_later(later_s, self.bump, run_id)

    @staticmethod
    def _slot(run_id: str) -> int:
        return (zlib.crc32(run_id.encode("utf-8", "surrogatepass")) % _SLOTS) * 8

    def close(self) -> None:
        """Unmap the counters."""
        self._map.close()
