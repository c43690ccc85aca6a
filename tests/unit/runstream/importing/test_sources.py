"""Names and steps of other tools become MLflow's by rules that lose nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.importing.sources import LegalNames, legal_name, whole_steps
from runstream.schemas.mlflow.names import check_length, check_name


@given(st.lists(st.text(max_size=300), max_size=20, unique=True))
def test_every_name_becomes_one_that_mlflow_takes_and_none_two(names: list[str]) -> None:
    notes: list[str] = []
    legal = LegalNames(notes)
    mapped = [legal(name) for name in names]
    assert len(set(mapped)) == len(names)
    for name, other in zip(names, mapped, strict=True):
        check_name(other, "name")
        check_length("name", other)
        assert legal(name) == other
        assert (name == other) or any(repr(name) in note for note in notes)


@pytest.mark.parametrize(
    ("name", "legal"),
    [
        ("a/b", "a/b"),
        ("loss%", "loss_"),
        ("/a//b/", "a/b"),
        ("a/../b", "a/__/b"),
        ("", "_"),
        ("系列", "系列"),
    ],
)
def test_the_nearest_name(name: str, legal: str) -> None:
    assert legal_name(name) == legal


@pytest.mark.parametrize(
    ("steps", "whole", "scale"),
    [
        ([0.0, 1.0, 5.0], [0, 1, 5], 1),
        ([0.5, 1.0, 1.5], [5, 10, 15], 10),
        ([0.25, 0.1], [25, 10], 100),
        ([1 / 3, 2.0], [333333, 2000000], 1_000_000),
        ([-0.5], [-5], 10),
    ],
)
def test_fractional_steps_are_scaled_to_whole_ones(steps: list[float], whole: list[int], scale: int) -> None:
    found, by = whole_steps(np.array(steps))
    assert (found.tolist(), by) == (whole, scale)
