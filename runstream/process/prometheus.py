"""Prometheus' text format, for one process or for all processes of a machine."""

from __future__ import annotations

import fcntl
import logging
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)
from prometheus_client.mmap_dict import MmapedDict

_log = logging.getLogger(__name__)

# prometheus_client's own variable: processes that share this folder are exposed as one.
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# Kinds of files whose values only grow; those of processes that have ended are one file of each kind.
_SUMS = ("counter", "histogram", "summary")
_ENDED = "ended"
_LOCK = "metrics.lock"


def exposer() -> Callable[[], bytes]:
    """A function that renders the metrics; it reads files in a multi-process set, so call it off the loop."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder is None:
        return lambda: generate_latest(REGISTRY)

    def all_processes() -> bytes:
        registry = CollectorRegistry()
        with _locked(Path(folder), fcntl.LOCK_SH):
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            return generate_latest(registry)

    return all_processes


def forget_process(pid: int, folder: Path) -> None:
    """A process has ended: drop its gauges, and add its counters to those of others that have. Blocks.

    Its own files would stay for as long as the set runs, and every scrape reads all files.
    """
    with _locked(folder, fcntl.LOCK_EX):
        multiprocess.mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
        for kind in _SUMS:
            file = folder / f"{kind}_{pid}.db"
            if file.exists():
                _add(file, folder / f"{kind}_{_ENDED}.db")
                file.unlink()


def _add(file: Path, total: Path) -> None:
    sums = MmapedDict(str(total))  # type: ignore[no-untyped-call]
    try:
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
            before, _ = sums.read_value(key)  # type: ignore[no-untyped-call]
            sums.write_value(key, before + value, 0.0)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, struct.error) as error:
        # Killed while it wrote its first bytes.
        _log.warning("counters of an ended process are lost", extra={"file": file.name, "error": str(error)})
    finally:
        sums.close()  # type: ignore[no-untyped-call]


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    """Nobody reads the files between a value's being added and its file's removal."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)
