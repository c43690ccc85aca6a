"""The bound for unfinished requests, by an injected clock."""

from __future__ import annotations

from runstream.ingest.gateway.http.arriving import Arriving
from runstream.schemas.errors import MlflowError


class Sender:
    def __init__(self, began: float, last_active: float) -> None:
        self.began = began
        self.last_active = last_active
        self.ended: list[str] = []

    def end(self, error: MlflowError) -> None:
        self.ended.append(error.code)


def test_those_that_cost_most_end_first_and_what_they_held_is_free() -> None:
    now = 100.0
    arriving = Arriving(1_000, lambda: now)
    silent, slow, quick = Sender(90.0, 95.0), Sender(90.0, 99.9), Sender(99.9, 99.9)
    arriving.take(silent, 300)
    arriving.take(slow, 200)
    arriving.take(quick, 500)
    assert (silent.ended, slow.ended, quick.ended) == ([], [], [])
    arriving.take(quick, 100)
    assert (silent.ended, arriving.held_bytes) == (["REQUEST_TIMEOUT"], 800)
    arriving.take(quick, 300)
    assert (slow.ended, arriving.held_bytes) == (["RESOURCE_EXHAUSTED"], 900)
    arriving.take(quick, 101)
    assert (quick.ended, arriving.held_bytes) == (["RESOURCE_EXHAUSTED"], 0)
    arriving.give_back(quick)
    assert arriving.held_bytes == 0


def test_what_is_given_back_counts_no_more() -> None:
    arriving = Arriving(10, lambda: 0.0)
    one = Sender(0.0, 0.0)
    for _ in range(5):
        arriving.take(one, 8)
        arriving.give_back(one)
    assert arriving.held_bytes == 0
    assert not one.ended


def test_a_large_body_has_a_place_for_all_of_it_or_none() -> None:
    now = 0.0
    arriving = Arriving(1_000, lambda: now)
    small, first, second = Sender(0.0, 0.0), Sender(0.0, 0.0), Sender(0.0, 0.0)
    arriving.take(small, 100)
    assert arriving.keep(first, 800)
    assert not arriving.keep(second, 200)
    assert (arriving.held_bytes, small.ended, first.ended) == (900, [], [])
    now = 11.0
    assert arriving.keep(second, 200)
    assert (arriving.held_bytes, small.ended, first.ended) == (300, [], ["REQUEST_TIMEOUT"])
