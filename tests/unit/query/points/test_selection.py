"""Globs mean what ``fnmatch`` means, and what is selected is bound, never spliced."""

from __future__ import annotations

import re
from fnmatch import translate

from hypothesis import given
from hypothesis import strategies as st

from runstream.query.points.selection import Selection, glob_to_re2

alphabet = st.sampled_from("ab/.-! :é*?[]")
# fnmatch has no unclosed or odd sets in common with RE2's syntax; sets are written out instead.
pieces = st.sampled_from(
    ["*", "?", "a", "b", "/", ".", "-", " ", "é", "[ab]", "[!a]", "[a-c]", "[.]", "[!/.-]", "]"]
)


@given(st.lists(pieces, max_size=6).map("".join), st.text(alphabet, max_size=6))
def test_globs_match_as_fnmatch(glob: str, text: str) -> None:
    ours = glob_to_re2(glob).replace("$)", r"\Z)")
    ours = re.sub(r"\\x\{([0-9A-F]+)\}", lambda code: re.escape(chr(int(code[1], 16))), ours)
    assert bool(re.match(ours, text)) == bool(re.match(translate(glob), text))


def test_long_lists_are_cut_and_repeats_dropped() -> None:
    runs = [f"{number:032x}" for number in range(4_500)]
    parts = list(Selection([*runs, *runs[:10]]).parts())
    assert [run for part in parts for run in part.runs] == runs
    assert len(parts) == 3


def test_conditions_bind_what_they_compare() -> None:
    where, parameters = Selection(["r"], ["a", "b/*"], (None, 5), (10, None)).where()
    assert where == (
        "run_id IN {runs:Array(String)} AND (key IN {keys:Array(String)} OR match(key, {pattern:String}))"
        " AND step <= {step_high:Int64} AND timestamp >= {timestamp_low:Int64}"
    )
    assert parameters["runs"] == ["r"]
    assert parameters["keys"] == ["a"]
    assert parameters["step_high"] == 5
    assert parameters["timestamp_low"] == 10
