"""Read your writes: what a reader asks for before it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Barrier(Protocol):
    """Waits until the writer has applied what was appended before the call began."""

    async def wait(self, run_ids: Sequence[str] | None, timeout_s: float, *, newest: bool = True) -> bool:
        """Make the writer flush, and wait until everything appended for ``run_ids`` (``None``: for any run)
        before this call is visible to readers: of ClickHouse, and with ``newest`` of the newest values in the
        metadata database as well. ``False`` when ``timeout_s`` passed first: the caller answers with what there
        is and says so."""
        ...
