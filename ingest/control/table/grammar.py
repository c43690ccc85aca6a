"""Names of columns, filters and orders of tables of runs: MLflow's grammar, and numbers about series beside it.

``metrics.loss.min`` is the smallest value of the metric ``loss``; as well ``max``, ``mean``, ``first``, ``count``,
``last`` (the same as ``metrics.loss``, MLflow's newest) and ``at(500)``, the newest value at step 500. A metric whose
own name ends like this, or is no plain word, stands in backticks: metrics.`loss.min`, metrics.`val/loss`.max. The name
of every column may be used in filters and orders as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from runstream.ingest.control.search import grammar
from runstream.ingest.control.search.grammar import Comparison, Kind, NotPlainError, Ordering
from runstream.schemas.errors import MlflowError

ATTRIBUTES: Final = (
    "run_id", "run_name", "experiment_id", "status", "user_id", "start_time", "end_time", "lifecycle_stage",
    "artifact_uri",
)  # fmt: skip
_WHAT: Final = r"(?P<what>min|max|mean|first|count|last|at\((?P<step>-?\d{1,19})\))"
_METRIC: Final = rf"metrics?\.(?P<key>{grammar.WORD}(?:\.{grammar.WORD})*?|{grammar.QUOTED})\.{_WHAT}"
_CLAUSE: Final = re.compile(
    rf"\s*{_METRIC}\s*(?P<sign><=|>=|!=|=|<|>)\s*(?P<number>-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w.])\s*"
)
_ORDER: Final = re.compile(rf"{_METRIC}(?: +(?P<direction>ASC|DESC|asc|desc))?")
_COLUMN: Final = re.compile(
    rf"(?P<entity>[a-z]+)\.(?:[`\"](?P<quoted>[^`\"]+)[`\"]|(?P<key>.+?))(?:\.{_WHAT})?", re.DOTALL
)
_PLAIN: Final = re.compile(rf"{grammar.WORD}(?:\.{grammar.WORD})*")
_ENDS_LIKE_ONE: Final = re.compile(r".*\.(?:min|max|mean|first|count|last)", re.DOTALL)
_ENTITIES: Final[Mapping[str, Kind]] = {
    "metric": Kind.METRIC, "metrics": Kind.METRIC, "param": Kind.PARAM, "params": Kind.PARAM, "tag": Kind.TAG,
    "tags": Kind.TAG, "attribute": Kind.ATTRIBUTE, "attributes": Kind.ATTRIBUTE,
}  # fmt: skip
_SPELLED: Final = {
    Kind.METRIC: "metrics", Kind.PARAM: "params", Kind.TAG: "tags", Kind.ATTRIBUTE: "attributes",
}  # fmt: skip
_GLOB_MARKS: Final = frozenset("*?[")
LAST: Final = "last"


@dataclass(frozen=True, slots=True)
class Statistic:
    """A number about a series: ``what`` is ``min``, ``max``, ``mean``, ``first``, ``count`` or ``at``."""

    key: str
    what: str
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """``statistic sign number`` has to hold."""

    statistic: Statistic
    sign: str
    number: float


@dataclass(frozen=True, slots=True)
class StatisticOrder:
    """One entry of ``order_by``."""

    statistic: Statistic
    ascending: bool


@dataclass(frozen=True, slots=True)
class Column:
    """``key`` of ``kind``, or a statistic of it; with ``is_glob``, all keys that it matches. ``name`` is as given."""

    name: str
    kind: Kind
    key: str
    statistic: Statistic | None = None
    is_glob: bool = False

    def of(self, key: str) -> Column:
        """The column of one key that the glob matches."""
        statistic = self.statistic and Statistic(key, self.statistic.what, self.statistic.step)
        name = f"{_SPELLED[self.kind]}.{_spelled(key)}{_ending(statistic)}"
        return Column(name, self.kind, key, statistic)


def parse_filter(text: str) -> tuple[tuple[Comparison, ...], tuple[Condition, ...]]:
    """What MLflow's tables decide, and what is asked of series. Raises ``MlflowError``."""
    comparisons: list[Comparison] = []
    conditions: list[Condition] = []
    try:
        for match in grammar.clauses(text, _CLAUSE):
            if match.re is not _CLAUSE:
                comparisons.append(grammar.run_comparison(match))
            elif match["what"] == LAST:
                number = float(match["number"])
                comparisons.append(Comparison(Kind.METRIC, _unquoted(match["key"]), match["sign"], number))
            else:
                conditions.append(Condition(_statistic(match), match["sign"], float(match["number"])))
    except NotPlainError:
        raise MlflowError(
            f"Invalid filter: {text!r}. Comparisons as in MLflow's search, such as params.lr = '0.1', tags.`my tag`"
            " LIKE 'a%', metrics.loss < 0.5 or metrics.loss.min < 0.1, joined by AND"
        ) from None
    return tuple(comparisons), tuple(conditions)


def parse_order(text: str) -> Ordering | StatisticOrder:
    """One entry of ``order_by``. Raises ``MlflowError``."""
    match = _ORDER.fullmatch(text)
    if match is not None:
        ascending = (match["direction"] or "asc").lower() == "asc"
        if match["what"] == LAST:
            return Ordering(Kind.METRIC, _unquoted(match["key"]), ascending)
        return StatisticOrder(_statistic(match), ascending)
    try:
        return grammar.parse_run_order(text)
    except NotPlainError:
        raise MlflowError(
            f"Invalid order: {text!r}. As in MLflow's search, such as metrics.loss DESC, or metrics.loss.min ASC"
        ) from None


def parse_column(text: str) -> Column:
    """One of ``columns``: a name, or a glob. Raises ``MlflowError``."""
    match = _COLUMN.fullmatch(text)
    kind = _ENTITIES.get(match["entity"]) if match else None
    if match is None or kind is None:
        raise MlflowError(
            f"Invalid column: {text!r}. Columns are metrics., params., tags. or attributes. and a key or glob"
        )
    key, what = match["quoted"] or match["key"], match["what"]
    if what and kind is not Kind.METRIC:
        key, what = f"{key}.{what}", None
    is_glob = match["quoted"] is None and not _GLOB_MARKS.isdisjoint(key)
    if kind is Kind.ATTRIBUTE and not is_glob and key not in ATTRIBUTES:
        raise MlflowError(f"Invalid column: {text!r}. Attributes are {', '.join(ATTRIBUTES)}")
    statistic = _statistic_of(key, what, match["step"]) if what and what != LAST else None
    return Column(text, kind, key, statistic, is_glob)


def _statistic(match: re.Match[str]) -> Statistic:
    return _statistic_of(_unquoted(match["key"]), match["what"], match["step"])


def _statistic_of(key: str, what: str, step: str | None) -> Statistic:
    if step is None:
        return Statistic(key, what)
    if abs(int(step)) > grammar.INT64_MAX:
        raise MlflowError(f"No step: {step}")
    return Statistic(key, "at", int(step))


def _unquoted(key: str) -> str:
    return key[1:-1] if key[0] in '`"' else key


def _spelled(key: str) -> str:
    if _PLAIN.fullmatch(key) and not _ENDS_LIKE_ONE.fullmatch(key):
        return key
    return f"`{key}`"


def _ending(statistic: Statistic | None) -> str:
    if statistic is None:
        return ""
    return f".at({statistic.step})" if statistic.what == "at" else f".{statistic.what}"
