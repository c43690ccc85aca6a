"""Work for artifacts steps back behind everything else of the process: threads of lower priority, and disk writes
in small pieces.

Without this, ten uploads at full speed make a metric append wait ten times as long: for a processor, and for the
disk, whose cache they fill with gigabytes that the next small sync then has to wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import obstore
from obstore.store import MemoryStore

_NICENESS = 5
_THREADS = 8
# Linux' SYNC_FILE_RANGE_WAIT_BEFORE | WRITE | WAIT_AFTER: write these pages and wait, without a journal commit.
_SYNC_RANGE = 1 | 2 | 4

_runtime_lock = threading.Lock()
_runtime_started = False


def threads() -> ThreadPoolExecutor:
    """A pool for blocking calls: a slow disk must not take the threads that metrics need."""
    return ThreadPoolExecutor(_THREADS, "artifacts", initializer=_step_back)


def start_runtime() -> None:
    """Start obstore's threads with lower priority. They inherit it from the thread that uses obstore first."""
    global _runtime_started
    with _runtime_lock:
        if _runtime_started:
            return
        starter = threading.Thread(target=_use_obstore, name="artifacts")
        starter.start()
        starter.join()
        _runtime_started = True


def write_out(descriptor: int, start: int, length: int) -> None:
    """Block until this part of a file has been written to the disk, without a journal commit where that can be had."""
    if _sync_file_range is not None and _sync_file_range(descriptor, start, length, _SYNC_RANGE) == 0:
        return
    os.fdatasync(descriptor)


def _use_obstore() -> None:
    _step_back()
    asyncio.run(_put_nothing())


async def _put_nothing() -> None:
    await obstore.put_async(MemoryStore(), "nothing", b"")


def _step_back() -> None:
    """Lower the calling thread's priority (on Linux it has its own)."""
    if not sys.platform.startswith("linux"):
        return
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS)


def _find_sync_file_range() -> ctypes._NamedFuncPointer | None:
    try:
        found = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (OSError, AttributeError, TypeError):
        return None
    found.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    found.restype = ctypes.c_int
    return found


_sync_file_range = _find_sync_file_range()
