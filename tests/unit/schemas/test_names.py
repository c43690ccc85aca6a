"""Names as a column behave as the list of strings that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream.schemas.names import Names

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=30)


@settings(deadline=None)
@given(TEXTS)
def test_is_the_sequence_it_was_made_of(texts: list[str]) -> None:
    names = Names.of(texts)
    assert list(names) == texts
    assert names == texts
    assert len(names) == len(texts)
    assert [names[place] for place in range(len(texts))] == texts
    assert Names.of(names) is names
    assert Names.decode(names.raw, names.lengths) == texts
    assert names.characters().tolist() == [len(text) for text in texts]
    assert names.containing("\0").tolist() == ["\0" in text for text in texts]


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_distinct(first: list[str], second: list[str]) -> None:
    once, places = Names.joined([Names.of(first), Names.of(second)]).distinct()
    assert list(once) == list(dict.fromkeys(first + second))
    assert [list(once)[place] for place in places.tolist()] == first + second
    if len(once):
        assert once.pick(places) == first + second


@settings(deadline=None)
@given(TEXTS)
def test_ranks_are_code_point_order(texts: list[str]) -> None:
    once = list(dict.fromkeys(texts))
    ranks = Names.of(once).ranks()
    assert [once[place] for place in np.argsort(ranks)] == sorted(once)


@pytest.mark.parametrize(
    ("raw", "lengths"),
    [(b"\xff", [1]), ("ä".encode(), [1, 1]), ("aäb".encode(), [2, 2]), (b"abc", [2]), (b"a", [1, 1])],
)
def test_what_is_not_text_is_refused(raw: bytes, lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=r"name|decode"):
        Names.decode(raw, np.array(lengths, np.uint32))


def test_an_empty_name_at_the_end() -> None:
    assert Names.decode("ä".encode(), np.array([2, 0], np.uint32)) == ["ä", ""]
