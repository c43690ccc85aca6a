"""What was seen of a table, told from the block numbers of its parts."""

from __future__ import annotations

from runstream.query.points.parts import Part, coverage


def part(low: int, high: int, deletion: int = 0) -> Part:
    return Part(f"all_{low}_{high}_0", low, high, deletion)


def test_merges_of_seen_parts_are_seen() -> None:
    seen = coverage([part(1, 4), part(5, 5), part(6, 9)])
    assert seen.holds(part(1, 9))
    assert seen.holds(part(5, 9))
    assert not seen.holds(part(10, 10))
    assert not seen.holds(part(6, 10))


def test_a_gap_may_be_an_insert_under_way() -> None:
    seen = coverage([part(1, 4), part(6, 9)])
    assert not seen.holds(part(5, 5))
    assert not seen.holds(part(1, 9))
    assert coverage([part(5, 5)], seen).holds(part(1, 9))
    assert coverage([part(1, 9)]).holds(part(6, 9))


def test_deletions_are_news() -> None:
    seen = coverage([part(1, 4), part(5, 9)])
    assert not seen.holds(part(1, 4, deletion=10))
    again = coverage([part(1, 4, deletion=10), part(5, 9, deletion=10)])
    assert again.holds(part(1, 9, deletion=10))
    assert not again.holds(part(1, 9, deletion=11))


def test_nothing_seen() -> None:
    assert not coverage([]).holds(part(1, 1))


def test_a_deletion_is_seen_when_every_part_before_it_has_it() -> None:
    half = coverage([part(1, 4, deletion=10), part(5, 9), part(11, 11)])
    assert not half.holds(part(5, 9, deletion=10))
    assert not half.holds(part(1, 4, deletion=10))
    done = coverage([part(1, 4, deletion=10), part(5, 9, deletion=10), part(11, 11)])
    assert done.holds(part(1, 9, deletion=10))
    assert done.holds(part(11, 11))
