"""Disks that fill up: a small one of its own where mounting is allowed, else a limit on what processes may write."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import psutil

MIB = 1 << 20


class Disk(Protocol):
    """A folder on a disk that can be made full and free again for the processes that use it."""

    folder: Path

    def fill(self, processes: Iterable[psutil.Process] = ()) -> None:
        """From now on no byte can be added."""
        ...

    def free(self, processes: Iterable[psutil.Process] = ()) -> None:
        """There is room again."""
        ...


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Disk]:
    """A disk of ``size`` bytes mounted at ``folder``, or the same effect without a mount."""
    with mounted(folder, f"size={size}") as is_mounted:
        yield _Mounted(folder) if is_mounted else _Limited(folder)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[bool]:
    """A tmpfs with these options at this new folder, if this user may mount one: says whether it is there."""
    folder.mkdir()
    allowed = os.geteuid() == 0 and "RUNSTREAM_TEST_NO_MOUNT" not in os.environ
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    is_mounted = allowed and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


class _Mounted:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, processes: Iterable[psutil.Process] = ()) -> None:
        with self._ballast.open("ab", buffering=0) as file:
            for size in (MIB, 4096, 1):
                try:
                    while file.write(b"\0" * size) == size:
                        pass
                except OSError:
                    continue

    def free(self, processes: Iterable[psutil.Process] = ()) -> None:
        self._ballast.unlink()


class _Limited:
    """No file may grow past its first byte: every write fails with EFBIG (Python ignores the signal)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, processes: Iterable[psutil.Process] = ()) -> None:
        _limit(processes, 0)

    def free(self, processes: Iterable[psutil.Process] = ()) -> None:
        _limit(processes, resource.RLIM_INFINITY)


def _limit(processes: Iterable[psutil.Process], size: int) -> None:
    for process in processes:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
