"""Pauses between tries, in one way."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Pauses in seconds that double from ``first_s`` to ``longest_s``, and begin again at ``reset``.

    Of each pause the part ``spread`` is taken at random, so that many do not come back at once. It only counts: the
    caller waits, and so may be woken, watch a deadline, or obey what a server says instead.
    """

    def __init__(
        self,
        first_s: float,
        longest_s: float,
        *,
        spread: float = 0.0,
        random_fraction: Callable[[], float] = random.random,
    ) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._spread = spread
        self._random_fraction = random_fraction
        self._next_s = first_s

    def next_s(self) -> float:
        """The pause that is due now."""
        pause_s = self._next_s
        self._next_s = min(2 * pause_s, self._longest_s)
        return pause_s * (1 - self._spread * (1 - self._random_fraction()))

    def reset(self) -> None:
        """Something went well: begin again with the first."""
        self._next_s = self._first_s
