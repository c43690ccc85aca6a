"""What has arrived on a connection and is not handled yet."""

from __future__ import annotations

from runstream.ingest.gateway.http.arriving import Arriving, Holder


class Inbox:
    """Bytes in the order of their arrival, counted for their ``holder``. ``looked_at`` is how far they are known to
    hold no end of a head."""

    __slots__ = ("_arriving", "_holder", "_place_kept", "data", "looked_at")

    def __init__(self, arriving: Arriving, holder: Holder) -> None:
        self.data = bytearray()
        self.looked_at = 0
        self._arriving = arriving
        self._holder = holder
        self._place_kept = False

    def add(self, data: bytes) -> None:
        """Put bytes in. Their holder may have been ended afterwards, if there was no room for them."""
        self.data += data
        if not self._place_kept:
            self._arriving.take(self._holder, len(data))

    def keep_place(self, size: int) -> bool:
        """Have room for a large request until it is cut out; ``False`` if there is none."""
        self._place_kept = self._arriving.keep(self._holder, size)
        return self._place_kept

    def cut(self, end: int, begin: int = 0) -> bytes:
        """Take the first ``end`` bytes out; the result leaves out ``begin`` of them."""
        part = bytes(memoryview(self.data)[begin:end])
        if len(self.data) == end:
            self.clear()
        else:
            del self.data[:end]
            self.looked_at = 0
            self._place_kept = False
            self._arriving.give_back(self._holder)
            self._arriving.take(self._holder, len(self.data))
        return part

    def clear(self) -> None:
        """Throw everything away."""
        self.data = bytearray()
        self.looked_at = 0
        self._place_kept = False
        self._arriving.give_back(self._holder)
