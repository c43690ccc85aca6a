"""Pauses grow to a bound, are spread, and begin again."""

from __future__ import annotations

from runstream.schemas.backoff import Backoff


def test_pauses_double_to_their_bound_and_begin_again() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.next_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.next_s() == 0.5


def test_a_part_of_each_is_random() -> None:
    fractions = iter((0.0, 1.0, 0.5))
    backoff = Backoff(1.0, 1.0, spread=0.5, random_fraction=lambda: next(fractions))
    assert [backoff.next_s() for _ in range(3)] == [0.5, 1.0, 0.75]
