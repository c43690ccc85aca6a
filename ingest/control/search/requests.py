"""Search requests, decoded: only those that are written as MLflow's clients write them.

Anything else (unknown fields, odd types, limits exceeded, wrong filters) is ``NotPlainError``: MLflow's server answers.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeVar

import msgspec
import orjson

from runstream.ingest.control.search import grammar
from runstream.ingest.control.search.grammar import Comparison, NotPlainError, Ordering

MAX_EXPERIMENTS: Final = 2_000
MAX_ORDERINGS: Final = 8
MAX_COMPARISONS: Final = 64
MAX_OFFSET: Final = 1_000_000
_EXPERIMENT_ID: Final = re.compile(r"0|[1-9][0-9]{0,8}")

View = Literal["ACTIVE_ONLY", "DELETED_ONLY", "ALL"]
STAGES: Final[dict[str, tuple[str, ...]]] = {
    "ACTIVE_ONLY": ("active",),
    "DELETED_ONLY": ("deleted",),
    "ALL": ("active", "deleted"),
}


@dataclass(frozen=True, slots=True)
class RunSearch:
    """``runs/search``: which runs, in which order, from where on."""

    experiment_ids: tuple[int, ...]
    stages: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    orderings: tuple[Ordering, ...]
    max_results: int
    offset: int


@dataclass(frozen=True, slots=True)
class ExperimentSearch:
    """``experiments/search``."""

    stages: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    orderings: tuple[Ordering, ...]
    max_results: int
    offset: int


class _RunBody(msgspec.Struct, forbid_unknown_fields=True):
    experiment_ids: list[str]
    filter: str = ""
    run_view_type: View = "ACTIVE_ONLY"
    max_results: Annotated[int, msgspec.Meta(ge=1, le=50_000)] = 1000
    order_by: list[str] = []
    page_token: str = ""


class _ExperimentBody(msgspec.Struct, forbid_unknown_fields=True):
    max_results: Annotated[int, msgspec.Meta(ge=1, le=50_000)]
    filter: str = ""
    view_type: View = "ACTIVE_ONLY"
    order_by: list[str] = []
    page_token: str = ""


_Body = TypeVar("_Body", bound=msgspec.Struct)


def run_search(body: bytes) -> RunSearch:
    """Decode the body of ``runs/search``. Raises ``NotPlainError``."""
    return run_search_of(_decode(body, _RunBody))


def run_search_of(wanted: _RunBody) -> RunSearch:
    """The same from the fields as they were sent."""
    ids = wanted.experiment_ids
    if not 0 < len(ids) <= MAX_EXPERIMENTS or not all(map(_EXPERIMENT_ID.fullmatch, ids)):
        raise NotPlainError
    comparisons = grammar.parse_run_filter(wanted.filter)
    if len(comparisons) > MAX_COMPARISONS or len(wanted.order_by) > MAX_ORDERINGS:
        raise NotPlainError
    orderings = tuple(map(grammar.parse_run_order, wanted.order_by))
    if len({(ordering.kind, ordering.key) for ordering in orderings}) != len(orderings):
        raise NotPlainError
    return RunSearch(
        experiment_ids=tuple(sorted(set(map(int, ids)))),
        stages=STAGES[wanted.run_view_type],
        comparisons=comparisons,
        orderings=orderings,
        max_results=wanted.max_results,
        offset=_offset(wanted.page_token),
    )


def experiment_search(body: bytes) -> ExperimentSearch:
    """Decode the body of ``experiments/search``. Raises ``NotPlainError``."""
    wanted = _decode(body, _ExperimentBody)
    comparisons = grammar.parse_experiment_filter(wanted.filter)
    if len(comparisons) > MAX_COMPARISONS or len(wanted.order_by) > MAX_ORDERINGS:
        raise NotPlainError
    return ExperimentSearch(
        stages=STAGES[wanted.view_type],
        comparisons=comparisons,
        orderings=tuple(map(grammar.parse_experiment_order, wanted.order_by)),
        max_results=wanted.max_results,
        offset=_offset(wanted.page_token),
    )


def _decode(body: bytes, form: type[_Body]) -> _Body:
    try:
        return msgspec.json.decode(body, type=form)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NotPlainError from error


def _offset(page_token: str) -> int:
    """The offset of a token that MLflow made (``SearchUtils.create_page_token``)."""
    if not page_token:
        return 0
    try:
        offset = orjson.loads(base64.b64decode(page_token, validate=True))["offset"]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise NotPlainError from error
    if type(offset) is not int or not 0 < offset <= MAX_OFFSET:
        raise NotPlainError
    return offset
