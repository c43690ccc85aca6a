"""The search grammar of MLflow's runs and experiments, as far as it is written in a plain way.

MLflow's grammar is what its ``utils/search_utils.py`` makes of ``sqlparse``'s tokens, with many odd corners. This one
reads the forms that people and clients write, and reads them as MLflow does; whatever else is asked, wrong filters
above all, is ``NotPlainError``: MLflow is asked then, and answers in its own words. So this grammar has to be right,
not whole, and ``tests/unit/ingest/control/search/test_grammar.py`` holds that MLflow reads the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

MAX_FILTER_CHARACTERS: Final = 20_000
INT64_MAX: Final = 2**63 - 1

Value = str | float | int | tuple[str, ...] | None


class NotPlainError(Exception):
    """This is not written in the plain way: ask MLflow. Not an error of the caller."""


class Kind(Enum):
    """What a key names."""

    METRIC = "metric"
    PARAM = "parameter"
    TAG = "tag"
    ATTRIBUTE = "attribute"
    DATASET = "dataset"


@dataclass(frozen=True, slots=True)
class Comparison:
    """``key comparator value``; ``comparator`` is in capitals. ``value`` is a tuple for IN and NOT IN, and ``None`` for
    IS NULL and IS NOT NULL."""

    kind: Kind
    key: str
    comparator: str
    value: Value


@dataclass(frozen=True, slots=True)
class Ordering:
    """One entry of ``order_by``."""

    kind: Kind
    key: str
    ascending: bool


_ENTITIES: Final[Mapping[str, Kind]] = {
    "metric": Kind.METRIC, "metrics": Kind.METRIC,
    "parameter": Kind.PARAM, "parameters": Kind.PARAM, "param": Kind.PARAM, "params": Kind.PARAM,
    "tag": Kind.TAG, "tags": Kind.TAG,
    "attribute": Kind.ATTRIBUTE, "attributes": Kind.ATTRIBUTE, "attr": Kind.ATTRIBUTE, "run": Kind.ATTRIBUTE,
    "dataset": Kind.DATASET, "datasets": Kind.DATASET,
}  # fmt: skip
_EXPERIMENT_ENTITIES: Final[Mapping[str, Kind]] = {
    "attribute": Kind.ATTRIBUTE, "tag": Kind.TAG, "tags": Kind.TAG,
}  # fmt: skip

_RUN_STRINGS: Final = frozenset({"artifact_uri", "run_id", "run_name", "status", "user_id"})
_RUN_NUMBERS: Final = frozenset({"start_time", "end_time"})
_ALIASES: Final[Mapping[str, str]] = {
    "created": "start_time", "Created": "start_time",
    "run name": "run_name", "Run name": "run_name", "Run Name": "run_name",
}  # fmt: skip
_RUN_ORDERS: Final = _RUN_STRINGS | _RUN_NUMBERS | {"created", "Created"}
_DATASET_KEYS: Final = frozenset({"name", "digest", "context"})
_EXPERIMENT_NUMBERS: Final = frozenset({"creation_time", "last_update_time"})

_TEXT: Final = frozenset({"=", "!=", "LIKE", "ILIKE"})

# A word that sqlparse reads as a name after a dot (these few it does not); a key in backticks or double quotes; both
# without what MLflow's quoting (sqlparse, then shlex, then its own) treats in a special way.
WORD: Final = r"(?!(?i:case|in|values|using|from|as)\b)[A-Za-z][A-Za-z0-9_]*"
QUOTED: Final = r"`[^`\"'\\\0\r\n]+`|\"[^`\"'\\\0\r\n]+\""
_KEY: Final = rf"(?P<entity>[a-z]+)\.(?P<key>{WORD}(?:\.{WORD})*|{QUOTED})|(?P<bare>[a-z][a-z_]*)"
_STRING: Final = r"'[^'\\\0]*'|\"[^\"\\`'\0]+\""
_CLAUSE: Final = re.compile(
    rf"""\s*(?:{_KEY})
    (?:
      \s*(?P<sign><=|>=|!=|=|<|>)\s*(?:(?P<number>-?\d+(?:\.\d+)?(?:[eE]-?\d+)?)(?![\w.])|(?P<text>{_STRING}))
    | \s+(?P<like>LIKE|ILIKE|like|ilike)\s+(?P<pattern>{_STRING})
    | \s+(?P<list>IN|NOT\ IN)\s*\(\s*(?P<items>'[^'\\\0\n]*'(?:\s*,\s*'[^'\\\0\n]*')*)\s*,?\s*\)
    | \s+(?P<null>IS\ NULL|IS\ NOT\ NULL)(?!\w)
    )\s*""",
    re.VERBOSE,
)
_AND: Final = re.compile(r"(?<=[\s')\"])(?:AND|and)(?=\s)")
_ITEM: Final = re.compile(r"'([^']*)'")
_ORDER: Final = re.compile(rf"(?:{_KEY})(?: +(?P<direction>ASC|DESC|asc|desc))?")


def parse_run_filter(text: str) -> tuple[Comparison, ...]:
    """The comparisons of a ``filter`` of ``runs/search``, all of which have to hold."""
    return tuple(run_comparison(match) for match in clauses(text))


def parse_experiment_filter(text: str) -> tuple[Comparison, ...]:
    """The comparisons of a ``filter`` of ``experiments/search``."""
    return tuple(_experiment_comparison(match) for match in clauses(text))


def parse_run_order(text: str) -> Ordering:
    """One entry of ``order_by`` of ``runs/search``."""
    kind, key, ascending = _ordering(text, _ENTITIES)
    if kind is Kind.DATASET or (kind is Kind.ATTRIBUTE and key not in _RUN_ORDERS):
        raise NotPlainError
    return Ordering(kind, _attribute(key), ascending)


def parse_experiment_order(text: str) -> Ordering:
    """One entry of ``order_by`` of ``experiments/search``."""
    kind, key, ascending = _ordering(text, _EXPERIMENT_ENTITIES)
    if kind is not Kind.ATTRIBUTE or key not in _EXPERIMENT_NUMBERS | {"name", "experiment_id"}:
        raise NotPlainError
    return Ordering(kind, key, ascending)


def clauses(text: str, *others: re.Pattern[str]) -> list[re.Match[str]]:
    """The clauses of a filter; what one of the patterns ``others`` matches is one as well, before what MLflow takes for
    one. Raises ``NotPlainError``."""
    if not text:
        return []
    if len(text) > MAX_FILTER_CHARACTERS:
        raise NotPlainError
    found = []
    at = 0
    while True:
        match = next(filter(None, (clause.match(text, at) for clause in (*others, _CLAUSE))), None)
        if match is None:
            raise NotPlainError
        found.append(match)
        at = match.end()
        if at == len(text):
            return found
        conjunction = _AND.match(text, at)
        if conjunction is None:
            raise NotPlainError
        at = conjunction.end()


def _named(match: re.Match[str], entities: Mapping[str, Kind]) -> tuple[Kind, str]:
    bare = match["bare"]
    if bare is not None:
        return Kind.ATTRIBUTE, bare
    kind = entities.get(match["entity"])
    if kind is None:
        raise NotPlainError
    key: str = match["key"]
    return kind, key[1:-1] if key[0] in '`"' else key


def _ordering(text: str, entities: Mapping[str, Kind]) -> tuple[Kind, str, bool]:
    match = _ORDER.fullmatch(text)
    if match is None or len(text) > MAX_FILTER_CHARACTERS:
        raise NotPlainError
    kind, key = _named(match, entities)
    return kind, key, (match["direction"] or "asc").lower() == "asc"


def _attribute(key: str) -> str:
    # MLflow translates these whatever the key names: a metric of this name is out of its reach.
    return _ALIASES.get(key, key)


def run_comparison(match: re.Match[str]) -> Comparison:
    """What a clause of ``clauses`` says of runs. Raises ``NotPlainError``."""
    kind, written = _named(match, _ENTITIES)
    key = _attribute(written)
    if kind is Kind.METRIC:
        return Comparison(kind, key, *_number_of(match))
    if kind in (Kind.PARAM, Kind.TAG):
        if match["null"]:
            return Comparison(kind, key, match["null"], None)
        return Comparison(kind, key, *_text_of(match))
    if kind is Kind.DATASET:
        if written not in _DATASET_KEYS:
            raise NotPlainError
        return Comparison(kind, key, *(_list_of(match) if match["list"] else _text_of(match)))
    if key in _RUN_NUMBERS:
        return Comparison(kind, key, *_integer_of(match))
    if key not in _RUN_STRINGS:
        raise NotPlainError
    if match["list"] and written == "run_id":
        return Comparison(kind, key, *_list_of(match))
    return Comparison(kind, key, *_text_of(match))


def _experiment_comparison(match: re.Match[str]) -> Comparison:
    kind, written = _named(match, _EXPERIMENT_ENTITIES)
    key = _attribute(written)
    if match["like"] and match["like"].islower():
        raise NotPlainError
    if kind is Kind.TAG:
        if match["null"]:
            return Comparison(kind, key, match["null"], None)
        return Comparison(kind, key, *_text_of(match))
    if key in _EXPERIMENT_NUMBERS:
        return Comparison(kind, key, *_integer_of(match))
    if key != "name":
        raise NotPlainError
    return Comparison(kind, key, *_text_of(match))


def _number_of(match: re.Match[str]) -> tuple[str, float]:
    if match["number"] is None:
        raise NotPlainError
    return match["sign"], float(match["number"])


def _integer_of(match: re.Match[str]) -> tuple[str, int]:
    if match["number"] is None or not match["number"].lstrip("-").isdigit():
        raise NotPlainError
    value = int(match["number"])
    if abs(value) > INT64_MAX:
        raise NotPlainError
    return match["sign"], value


def _text_of(match: re.Match[str]) -> tuple[str, str]:
    comparator = match["sign"] or match["like"]
    text = match["text"] or match["pattern"]
    if comparator is None or text is None or comparator.upper() not in _TEXT:
        raise NotPlainError
    return comparator.upper(), text[1:-1]


def _list_of(match: re.Match[str]) -> tuple[str, tuple[str, ...]]:
    return match["list"], tuple(_ITEM.findall(match["items"]))
