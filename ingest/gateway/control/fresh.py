"""Read your writes, for reads of one run: waits that come together are one question to the writer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from runstream.ingest.control.coalesce import Coalescer

_AT_ONCE = 4
_RUNS_TOGETHER = 64


class FreshRuns:
    """``barrier`` waits until what was appended for these runs is applied, within a bound, and says whether it is."""

    def __init__(self, barrier: Callable[[list[str] | None], Awaitable[bool]]) -> None:
        self._barrier = barrier
        self._questions: Coalescer[str, bool] = Coalescer(
            self._ask, at_once=_AT_ONCE, max_keys=_RUNS_TOGETHER
        )

    async def wait(self, run_id: str) -> bool:
        """Wait for what was appended for a run before now (for any, if ``run_id`` is empty); whether all of it is
        applied."""
        return bool(await self._questions.ask(run_id))

    async def _ask(self, run_ids: Sequence[str]) -> Mapping[str, bool]:
        is_fresh = await self._barrier(None if "" in run_ids else list(run_ids))
        return dict.fromkeys(run_ids, is_fresh)

    async def close(self) -> None:
        """End the questions under way."""
        await self._questions.close()
