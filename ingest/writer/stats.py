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

    ``failures`` are the errors that are being retried now, by what failed. ``on_flush`` is called after each block.
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
    failures: dict[str, str] = field(default_factory=dict)
    on_flush: Callable[[Flush], None] = field(default=_ignore, repr=False)

    @property
    def failure(self) -> str | None:
        """What is being retried now, and why; ``None`` if nothing is."""
        return "; ".join(f"{what}: {error}" for what, error in self.failures.items()) or None
