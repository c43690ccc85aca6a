"""Blocking work for artifacts, kept from being in the way of metrics: threads of its own, and disk writes in small
pieces.

Lower thread priorities were tried and are no use: threads that share the interpreter's lock hold it when they are
put aside.
"""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor

_THREADS = 8
# Linux' SYNC_FILE_RANGE_WAIT_BEFORE | WRITE | WAIT_AFTER: write these pages and wait, without a journal commit.
_SYNC_RANGE = 1 | 2 | 4


def threads() -> ThreadPoolExecutor:
    """A pool for blocking calls: a slow disk must not take the threads that metrics need."""
    return ThreadPoolExecutor(_THREADS, "artifacts")


def write_out(descriptor: int, start: int, length: int) -> None:
    """Block until this part of a file has been written to the disk, without a journal commit where that can be had.

    Gigabytes left in the page cache would hold up every small sync of the metrics' log until they are on the disk.
    """
    if _sync_file_range is not None and _sync_file_range(descriptor, start, length, _SYNC_RANGE) == 0:
        return
    os.fdatasync(descriptor)


def _find_sync_file_range() -> ctypes._NamedFuncPointer | None:
    try:
        found = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (OSError, AttributeError, TypeError):
        return None
    found.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    found.restype = ctypes.c_int
    return found


_sync_file_range = _find_sync_file_range()
