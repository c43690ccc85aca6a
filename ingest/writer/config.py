"""What a writer can be told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WriterConfig:
    """How much goes into a block, and how long a point waits for company. Times in seconds.

    A block is inserted at ``max_rows`` or ``max_bytes`` (of points in memory), when somebody waits for it
    (``flush_until``, or a flush marker in the queue), and else after ``linger_s``, or ``max_linger_s``
    while a tenth of ``max_rows`` or more came in meanwhile. While an insert is under way the next block may grow to
    ``behind_factor`` times ``max_rows``. Within ``readers_s`` of somebody's waiting,
    ``readers_rows`` holds instead of ``max_rows``. At most two blocks are held. After a poll that
    brought less than a quarter of ``poll_bytes`` the next one waits ``poll_pause_s``. Newest values are
    written beside the inserts, with a pause of ``latest_pause`` times what the last write took, unless somebody
    waits or they take more than about ``max_latest_bytes``; with very many series that saves most of the work.
    """

    max_rows: int = 300_000
    behind_factor: int = 4
    readers_rows: int = 75_000
    readers_s: float = 1.0
    max_bytes: int = 64 << 20
    poll_bytes: int = 1 << 20
    poll_pause_s: float = 0.005
    linger_s: float = 0.2
    max_linger_s: float = 1.0
    latest_pause: float = 4.0
    max_latest_bytes: int = 256 << 20
    revoke_timeout_s: float = 10.0
    stream: str = "metrics"
