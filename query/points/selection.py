"""Which points a request of Runstream's own API means, as SQL conditions with bound parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runstream.schemas.mlflow.limits import INT64_MAX, INT64_MIN

# Run ids of one SQL statement: they travel in the URL's query when ClickHouse is behind HTTP.
_RUNS_PER_QUERY = 2_000
# A metric key of MLflow contains none of these, so that a name with one of them is a pattern.
_GLOB_MARKS = frozenset("*?[")

Range = tuple[int | None, int | None]


@dataclass(frozen=True, slots=True)
class Selection:
    """Points of ``runs`` whose key is one of ``keys`` (names or globs; ``None``: every key), within ranges.

    Ranges are inclusive, ``steps`` in steps, ``time`` in Unix milliseconds; ``None`` is no bound.
    """

    runs: Sequence[str]
    keys: Sequence[str] | None = None
    steps: Range = (None, None)
    time: Range = (None, None)

    def parts(self) -> Iterator[Selection]:
        """The same selection, cut into ones that fit one statement, in the order of the run ids."""
        runs = sorted(set(self.runs))
        for start in range(0, len(runs), _RUNS_PER_QUERY):
            yield replace(self, runs=runs[start : start + _RUNS_PER_QUERY])

    def where(self) -> tuple[str, dict[str, Any]]:
        """The condition and its parameters; for one part (``parts``)."""
        conditions = ["run_id IN {runs:Array(String)}"]
        parameters: dict[str, Any] = {"runs": list(self.runs)}
        if self.keys is not None:
            conditions.append(self._keys(parameters))
        for column, (low, high) in (("step", self.steps), ("timestamp", self.time)):
            if low is not None:
                conditions.append(f"{column} >= {{{column}_low:Int64}}")
                parameters[f"{column}_low"] = max(low, INT64_MIN)
            if high is not None:
                conditions.append(f"{column} <= {{{column}_high:Int64}}")
                parameters[f"{column}_high"] = min(high, INT64_MAX)
        return " AND ".join(conditions), parameters

    def _keys(self, parameters: dict[str, Any]) -> str:
        assert self.keys is not None
        names = [key for key in self.keys if not is_glob(key)]
        globs = [key for key in self.keys if is_glob(key)]
        if not globs:
            parameters["keys"] = names
            return "key IN {keys:Array(String)}"
        parameters["pattern"] = "|".join(glob_to_re2(glob) for glob in globs)
        if not names:
            return "match(key, {pattern:String})"
        parameters["keys"] = names
        return "(key IN {keys:Array(String)} OR match(key, {pattern:String}))"


def is_glob(key: str) -> bool:
    """Whether a key is a pattern rather than a name."""
    return not _GLOB_MARKS.isdisjoint(key)


def glob_to_re2(glob: str) -> str:
    """A glob as an anchored regular expression of RE2, which ClickHouse's ``match`` uses.

    ``*`` is any text (``/`` too), ``?`` one character, ``[abc]``, ``[a-z]`` and ``[!a-z]`` one of a set. A
    bracket that is never closed stands for itself.
    """
    out = []
    at = 0
    while at < len(glob):
        mark = glob[at]
        at += 1
        if mark == "*":
            out.append(".*")
        elif mark == "?":
            out.append(".")
        elif mark == "[" and (end := glob.find("]", at + 1 + glob.startswith("!", at))) > 0:
            negated = glob[at] == "!"
            out.append(_set(glob[at + negated : end], negated))
            at = end + 1
        else:
            out.append(_escaped(mark))
    return f"(?s:^{''.join(out)}$)"


def _set(members: str, negated: bool) -> str:
    # A hyphen between two characters is a range; an empty one (z-a) matches nothing, as in fnmatch.
    chunks = []
    at = 0
    while at < len(members):
        if at + 2 < len(members) and members[at + 1] == "-":
            low, high = members[at], members[at + 2]
            if low <= high:
                chunks.append(f"{_escaped(low)}-{_escaped(high)}")
            at += 3
        else:
            chunks.append(_escaped(members[at]))
            at += 1
    if not chunks:
        return "." if negated else "[^\\x{0}-\\x{10FFFF}]"
    return f"[{'^' if negated else ''}{''.join(chunks)}]"


def _escaped(character: str) -> str:
    return character if character.isalnum() or character in "_/ " else f"\\x{{{ord(character):X}}}"
