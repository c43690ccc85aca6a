"""Positions of a writer: whatever happens to it in whatever order, its laws hold and nothing is committed early."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runstream.ingest.writer.progress import Progress
from runstream.ingest.writer.waiting import Step

PARTITIONS = st.integers(0, 2)


class Writer(RuleBasedStateMachine):
    """A writer that polls, inserts, settles, is killed off partitions and sees records again; ``inserted`` is the
    ledger of what an engine holds."""

    def __init__(self) -> None:
        super().__init__()
        self.progress = Progress()
        self.progress.start({0: 0, 1: 5})
        self.batch: dict[int, int] = {}
        self.inserting: dict[int, int] | None = None
        self.inserted: dict[int, int] = {0: 0, 1: 5}
        self.to_commit: dict[int, int] | None = None
        self.committed: dict[int, int] = {0: 0, 1: 5}
        self.seen: dict[Step, dict[int, int]] = {}

    @rule(partition=PARTITIONS, ahead=st.integers(1, 5))
    def poll(self, partition: int, ahead: int) -> None:
        offset = self.progress.at(Step.POLLED).get(partition, self.committed.get(partition, 0)) + ahead
        self.progress.poll(partition, offset)
        self.batch[partition] = offset

    @rule(partition=PARTITIONS)
    def deliver_again(self, partition: int) -> None:
        offset = max(1, self.committed.get(partition, 0))
        self.progress.poll(partition, offset)
        self.batch[partition] = max(offset, self.batch.get(partition, 0))

    @precondition(lambda self: self.inserting is None and self.batch)
    @rule()
    def begin_insert(self) -> None:
        self.inserting, self.batch = self.batch, {}
        self.progress.begin_insert(self.inserting, 7)

    @precondition(lambda self: self.inserting is not None)
    @rule()
    def end_insert(self) -> None:
        assert self.inserting is not None
        for partition, offset in self.inserting.items():
            self.inserted[partition] = max(offset, self.inserted.get(partition, 0))
        self.inserting = None
        self.progress.end_insert()

    @precondition(lambda self: self.to_commit is None and self.progress.has_unsettled)
    @rule()
    def begin_settle(self) -> None:
        self.to_commit = self.progress.begin_settle()

    @precondition(lambda self: self.to_commit is not None)
    @rule()
    def end_settle(self) -> None:
        assert self.to_commit is not None
        for partition, offset in self.to_commit.items():
            assert offset <= self.inserted[partition], "committed what is not inserted"
            assert offset >= self.committed.get(partition, 0), "a commit that goes back"
            self.committed[partition] = offset
        self.to_commit = None
        self.progress.end_settle()

    @rule(partition=PARTITIONS)
    def revoke(self, partition: int) -> None:
        under_way = self.progress.forget_polled([partition])
        assert under_way.get(partition, 0) <= max(
            self.inserted.get(partition, 0), (self.inserting or {}).get(partition, 0)
        )
        self.progress.revoke([partition])
        self.batch.pop(partition, None)
        for positions in self.seen.values():
            positions.pop(partition, None)
        if self.to_commit is not None:
            assert partition not in self.to_commit

    @invariant()
    def stages_are_in_order_and_never_go_back(self) -> None:
        settled, inserted, polled = (
            self.progress.at(step) for step in (Step.SETTLED, Step.INSERTED, Step.POLLED)
        )
        for partition, offset in settled.items():
            assert offset <= inserted[partition] <= polled[partition]
        for step in Step:
            now = dict(self.progress.at(step))
            for partition, offset in self.seen.get(step, {}).items():
                assert now[partition] >= offset
            self.seen[step] = now


TestWriter = Writer.TestCase
TestWriter.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_ages_move_with_their_points() -> None:
    progress = Progress()
    progress.start({0: 0})
    assert progress.oldest_ms() is None
    progress.poll(0, 10)
    progress.begin_insert({0: 5}, 100)
    progress.end_insert()
    progress.begin_insert({0: 10}, 50)
    assert progress.oldest_ms() == 50
    progress.end_insert()
    progress.begin_settle()
    assert progress.oldest_ms() == 50
    progress.end_settle()
    assert progress.oldest_ms() is None


def test_two_inserts_or_settlings_at_once_are_a_fault() -> None:
    progress = Progress()
    progress.start({0: 0})
    progress.begin_insert({0: 1}, None)
    with pytest.raises(AssertionError):
        progress.begin_insert({0: 2}, None)
    progress.end_insert()
    progress.begin_settle()
    progress.begin_insert({0: 2}, None)
    progress.end_insert()
    with pytest.raises(AssertionError):
        progress.begin_settle()
