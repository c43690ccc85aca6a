"""What is asked of a table of runs, decoded. Whatever is wrong with it is ``MlflowError``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from runstream.ingest.control.search.grammar import Ordering
from runstream.ingest.control.search.requests import STAGES, RunSearch, View
from runstream.ingest.control.table.grammar import (
    Column,
    Condition,
    StatisticOrder,
    parse_column,
    parse_filter,
    parse_order,
)
from runstream.schemas.errors import MlflowError
from runstream.schemas.mlflow.page_tokens import parse_page_token

MAX_ROWS: Final = 100_000
MAX_COLUMNS: Final = 1_000
_MAX_OFFSET: Final = 10_000_000
_EXPERIMENT_ID: Final = re.compile(r"0|[1-9][0-9]{0,17}")
# An experiment belongs to one more statement's parameters, and is asked about where callers are told apart.
MAX_EXPERIMENTS: Final = 2_000


class TableBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /api/1.0/runstream/runs``."""

    experiment_ids: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MAX_EXPERIMENTS)]
    filter: Annotated[str, msgspec.Meta(max_length=20_000)] = ""
    order_by: Annotated[list[str], msgspec.Meta(max_length=8)] = []
    columns: Annotated[list[str], msgspec.Meta(max_length=MAX_COLUMNS)] = []
    max_results: Annotated[int, msgspec.Meta(ge=1, le=MAX_ROWS)] = 1_000
    page_token: str | None = None
    run_view_type: View = "ACTIVE_ONLY"


@dataclass(frozen=True, slots=True)
class TableSearch:
    """``runs`` is what MLflow's tables decide: which runs, in which order, and which page; the ``conditions`` have to
    hold as well, and ``orders`` are looked at before the order of ``runs``."""

    runs: RunSearch
    conditions: tuple[Condition, ...]
    orders: tuple[StatisticOrder, ...]
    columns: tuple[Column, ...]


def decode(body: bytes) -> TableBody:
    """The body as it was sent. Raises ``MlflowError``."""
    try:
        wanted = msgspec.json.decode(body, type=TableBody)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MlflowError(f"Bad request: {error}") from error
    for experiment_id in wanted.experiment_ids:
        if not _EXPERIMENT_ID.fullmatch(experiment_id):
            raise MlflowError(f"Invalid experiment id: {experiment_id!r}")
    return wanted


def table_search(body: bytes) -> TableSearch:
    """What a body asks for. Raises ``MlflowError``."""
    wanted = decode(body)
    comparisons, conditions = parse_filter(wanted.filter)
    orders: list[StatisticOrder] = []
    orderings: list[Ordering] = []
    for order in map(parse_order, wanted.order_by):
        if isinstance(order, StatisticOrder):
            if orderings:
                raise MlflowError("Invalid order: numbers about series, such as metrics.loss.min, come first")
            orders.append(order)
        else:
            orderings.append(order)
    if len({(by.kind, by.key) for by in orderings}) != len(orderings):
        raise MlflowError("Invalid order: something is named twice")
    offset = parse_page_token(wanted.page_token)
    if not 0 <= offset <= _MAX_OFFSET:
        raise MlflowError("Invalid page token")
    runs = RunSearch(
        experiment_ids=tuple(sorted(set(map(int, wanted.experiment_ids)))),
        stages=STAGES[wanted.run_view_type],
        comparisons=comparisons,
        orderings=tuple(orderings),
        max_results=wanted.max_results,
        offset=offset,
    )
    return TableSearch(runs, conditions, tuple(orders), tuple(map(parse_column, wanted.columns)))
