"""How far a writer has come: one position per partition and stage, and the laws that hold between them.

A position is the offset at which what has not come to a stage begins. Laws, asserted at each move:

- a stage is never ahead of the one before it: settled <= settling <= inserted <= inserting <= polled;
- a position never goes back. A record that is delivered again moves nothing; a partition that is revoked has no
  position at all until it is read anew.

The offsets that may be committed are those of what is settling, once its newest values are written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from runstream.ingest.writer.waiting import Step

Offsets = dict[int, int]


class Progress:
    """Positions of all stages, and the age of the oldest point in each. For one event loop."""

    def __init__(self) -> None:
        self._polled: Offsets = {}
        self._inserting: Offsets = {}
        self._inserted: Offsets = {}
        self._settling: Offsets = {}
        self._settled: Offsets = {}
        self._inserting_oldest_ms: int | None = None
        self._inserted_oldest_ms: int | None = None
        self._settling_oldest_ms: int | None = None

    # What happens, in the order in which it happens to a record.

    def start(self, committed: Mapping[int, int]) -> None:
        """Reading begins at what is committed."""
        self._settled = dict(committed)
        self._polled = dict(committed)

    def learn(self, committed: Mapping[int, int]) -> None:
        """What is committed of partitions that have no position yet: they appeared, or were assigned, later."""
        for partition, offset in committed.items():
            self._settled.setdefault(partition, offset)

    def poll(self, partition: int, next_offset: int) -> None:
        """Everything of the partition below this offset has been read."""
        _raise(self._polled, {partition: next_offset})

    def begin_insert(self, next_offsets: Mapping[int, int], oldest_ms: int | None) -> None:
        """A batch that ends there is being inserted."""
        assert not self._inserting, "one insert at a time"
        ahead = self.at(Step.INSERTED)
        self._inserting = {
            partition: max(offset, ahead.get(partition, offset)) for partition, offset in next_offsets.items()
        }
        self._inserting_oldest_ms = oldest_ms
        self._check(next_offsets)

    def end_insert(self) -> None:
        """The batch is readable."""
        moved, self._inserting = self._inserting, {}
        _raise(self._inserted, moved)
        self._inserted_oldest_ms = _older(self._inserted_oldest_ms, self._inserting_oldest_ms)
        self._inserting_oldest_ms = None
        self._check(moved)

    def begin_settle(self) -> Offsets:
        """Everything inserted so far is being settled. Returns the offsets to commit afterwards: those of partitions
        that are revoked meanwhile disappear from them."""
        assert not self._settling, "one settling at a time"
        self._settling, self._inserted = self._inserted, {}
        self._settling_oldest_ms, self._inserted_oldest_ms = self._inserted_oldest_ms, None
        self._check(self._settling)
        return self._settling

    def end_settle(self) -> None:
        """Newest values are written and offsets committed."""
        moved, self._settling = self._settling, {}
        _raise(self._settled, moved)
        self._settling_oldest_ms = None
        self._check(moved)

    def forget_polled(self, partitions: Collection[int]) -> Offsets:
        """To whoever waits, what was only read of these partitions has not been read. Returns how far what is under way
        of them reaches."""
        for partition in partitions:
            self._polled.pop(partition, None)
        under_way = self._settling | self._inserted | self._inserting
        return {partition: under_way[partition] for partition in partitions if partition in under_way}

    def revoke(self, partitions: Collection[int]) -> None:
        """These partitions are another consumer's now."""
        for positions in (self._polled, self._inserting, self._inserted, self._settling, self._settled):
            for partition in partitions:
                positions.pop(partition, None)

    # What is asked.

    def at(self, step: Step) -> Offsets:
        """Per partition, where what has not come to ``step`` begins. Not to be changed."""
        if step is Step.SETTLED:
            return self._settled
        inserted = self._settled | self._settling | self._inserted
        return inserted if step is Step.INSERTED else inserted | self._polled

    def inserting(self) -> Offsets:
        """How far the batch that is being inserted reaches, and everything before it."""
        return self.at(Step.INSERTED) | self._inserting

    def settling(self) -> Offsets:
        """How far what is being settled reaches, and everything before it."""
        return self._settled | self._settling

    @property
    def has_unsettled(self) -> bool:
        """Whether something is inserted that no settling has begun for."""
        return bool(self._inserted)

    def knows(self, partitions: Collection[int]) -> bool:
        """Whether all of these partitions have a settled position."""
        return all(partition in self._settled for partition in partitions)

    def is_mine(self, partition: int) -> bool:
        """Whether the partition is read by this writer."""
        return partition in self._polled

    def oldest_ms(self) -> int | None:
        """When the oldest point that is inserted or being inserted, and not settled, was accepted."""
        return _older(_older(self._inserting_oldest_ms, self._inserted_oldest_ms), self._settling_oldest_ms)

    def _check(self, partitions: Collection[int]) -> None:
        for partition in partitions:
            place = -1
            for positions in (self._settled, self._settling, self._inserted, self._inserting):
                offset = positions.get(partition, place)
                assert place <= offset, f"partition {partition}: a stage is ahead of the one before it"
                place = offset


def _raise(positions: Offsets, moved: Mapping[int, int]) -> None:
    for partition, offset in moved.items():
        positions[partition] = max(offset, positions.get(partition, offset))


def _older(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)
