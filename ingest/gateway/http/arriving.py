"""One bound for all that has arrived at a process and cannot be handled yet, as its rest is missing.

Small requests come in one piece and never get here. Where the others together would hold more than the bound, those
end first that have cost most: bytes, times the seconds for which they have been held. So a sender that is slow or
silent goes before one that is quick, and a large body before a small one. A large body has its place kept for all of
it before it is read, or is refused at once: what is large and new does not end what has been let in, unless that
takes its time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from runstream.schemas.errors import MlflowError

_SILENT_S = 1.0
# Bodies above this have their place kept.
LARGE_BYTES = 1 << 20
# What has been arriving for longer gives way to a large body.
_PATIENCE_S = 10.0


class Holder(Protocol):
    """A request that is arriving. ``began`` and ``last_active`` are times of the loop's clock, in seconds."""

    began: float
    last_active: float

    def end(self, error: MlflowError) -> None:
        """Answer with the error, close the connection, and give back all that is held, at once."""
        ...


class Arriving:
    """The bytes that the unfinished requests of one process hold. Belongs to one event loop."""

    def __init__(self, max_bytes: int, clock: Callable[[], float]) -> None:
        self.held_bytes = 0
        self._max_bytes = max_bytes
        self._clock = clock
        self._holders: dict[Holder, int] = {}

    def take(self, holder: Holder, size: int) -> None:
        """Count bytes that have arrived. Holders may have been ended afterwards, this one among them."""
        self._holders[holder] = self._holders.get(holder, 0) + size
        self.held_bytes += size
        while self.held_bytes > self._max_bytes:
            self._end_worst(self._holders)

    def keep(self, holder: Holder, size: int) -> bool:
        """Keep the place of a large body, of which nothing is counted from then on; ``False`` if there is none."""
        self.give_back(holder)
        while self.held_bytes + size > self._max_bytes:
            old = [one for one in self._holders if self._clock() - one.began > _PATIENCE_S]
            if not old:
                return False
            self._end_worst(old)
        self._holders[holder] = size
        self.held_bytes += size
        return True

    def give_back(self, holder: Holder) -> None:
        """Count a holder's bytes no more."""
        self.held_bytes -= self._holders.pop(holder, 0)

    def _end_worst(self, among: Iterable[Holder]) -> None:
        now = self._clock()
        worst = max(among, key=lambda one: self._holders[one] * (now - one.began + 0.001))
        if now - worst.last_active > _SILENT_S:
            error = MlflowError("The request did not arrive in time", "REQUEST_TIMEOUT")
        else:
            error = too_many()
        worst.end(error)
        self.give_back(worst)


def too_many() -> MlflowError:
    """Why a request is refused that there is no room for."""
    return MlflowError("The server is receiving as much as it may; try again", "RESOURCE_EXHAUSTED")
