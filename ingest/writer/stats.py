"""What the writer counts; whoever runs it exposes the numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Flush:
    """One block on its way into ClickHouse; times in seconds."""

    points: int
    block_bytes: int
    insert_s: float


def _ignore(_flush: Flush) -> None:
    return


@dataclass(slots=True)
class WriterStats:
    """Counters since the start, changed on the event loop only.

    ``failure`` is the error that is being retried now, or ``None``; ``failing_since`` the monotonic time at
    which it began. ``on_flush`` is called after each block.
    """

    points: int = 0
    records: int = 0
    record_bytes: int = 0
    block_bytes: int = 0
    flushes: int = 0
    insert_s: float = 0.0
    latest_rows: int = 0
    latest_s: float = 0.0
    dead_letters: int = 0
    retries: int = 0
    failure: str | None = None
    failing_since: float | None = None
    on_flush: Callable[[Flush], None] = field(default=_ignore, repr=False)
