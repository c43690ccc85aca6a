"""Prometheus' text format, for one process or for all processes of a machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)

# prometheus_client's own variable: processes that share this folder are exposed as one.
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def exposer() -> Callable[[], bytes]:
    """A function that renders the metrics; it reads files in a multi-process set, so call it off the loop."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    if FOLDER_VARIABLE not in os.environ:
        return lambda: generate_latest(REGISTRY)

    def all_processes() -> bytes:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    return all_processes


def forget_process(pid: int, folder: Path) -> None:
    """Drop the gauges of a process that has ended; its counters stay in the sums."""
    multiprocess.mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
