"""Which runs a search finds, by the way that looks at the fewest rows.

A page of runs ordered by a metric is read off the index of that metric's values, from its end, until it is full; if few
runs fit some comparison, those are looked at instead; if the experiments have few runs, those. Which it is, is seen by
counting a little in the indexes, and by reading a little off the order: the database's own guesses know nothing of how
keys and values belong together in MLflow's tables, and are wrong by a factor of a thousand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from runstream.ingest.control.search.grammar import Kind, Ordering
from runstream.ingest.control.search.requests import RunSearch
from runstream.ingest.control.search.sql import Dialect, RunSql, Sql

Row = tuple[Any, ...]

# So few candidates are looked at without further thought.
FEW: Final = 500
# So many rows of the order are tried before anything is counted at length.
WINDOW: Final = 1_000
# Beyond this nothing is counted: looking at each costs seconds anyway.
MANY: Final = 200_000
# With more unsettled runs than these (``settled``), looking at each is no better than a scan.
MOST_UNSETTLED: Final = 5_000
# Looking at one candidate (its place in the order is looked up, all are sorted) against one step of the order.
_CANDIDATE_COST: Final = 1.5
# With another order than a metric's, more candidates than these are not worth it against a scan.
_UNORDERED: Final = 20_000


class Database(Protocol):
    """One connection, that only reads."""

    @property
    def dialect(self) -> Dialect: ...

    def rows(self, sql: Sql) -> list[Row]:
        """All rows of a statement. Blocks."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """The page's run ids in order, one more than asked for if there are more; ``way`` says how they were found."""

    run_ids: list[str]
    way: str


class Finder:
    """Looks for the runs of one search. ``indexed``: the indexes of ``indexes`` are there."""

    def __init__(self, database: Database, search: RunSearch, *, indexed: bool) -> None:
        self._database = database
        self._search = search
        self._indexed = indexed
        self._sql = RunSql(database.dialect, search)
        self._limit = search.max_results + 1
        self._unsettled = False

    def find(self) -> Found:
        """The run ids of the page. Blocks."""
        if not self._indexed or not self._look_for_unsettled():
            return Found(self._everything(), "scan")
        sources = [self._sql.scope()]
        sources += filter(None, map(self._sql.candidates, self._search.comparisons))
        few = self._smallest(sources, FEW)
        if few is not None:
            return Found(self._from(few), "few")
        orderings = self._search.orderings
        if orderings and orderings[0].kind is Kind.METRIC:
            return self._by_metric(sources)
        if self._search.comparisons or orderings:
            some = self._smallest(sources, _UNORDERED)
            if some is not None:
                return Found(self._from(some), "candidates")
        return Found(self._everything(), "scan")

    def _look_for_unsettled(self) -> bool:
        """On SQLite, some runs have to be looked at themselves; whether they are few enough for that."""
        if self._database.dialect == "sqlite":
            if self._database.rows(self._sql.is_unfilled()):
                return False
            count = self._database.rows(self._sql.count(self._sql.unsettled(), MOST_UNSETTLED + 1))[0][0]
            self._unsettled = count > 0
            return bool(count <= MOST_UNSETTLED)
        return True

    def _by_metric(self, sources: Sequence[Sql]) -> Found:
        needed = self._limit + self._search.offset
        window = max(WINDOW, 4 * needed)
        edge = self._database.rows(self._sql.value_at(window))
        if edge:
            # What comes before the edge's value is complete, whatever has that value itself.
            first = self._ids(self._sql.walk(needed, nan=False, beyond=edge[0][0]))
            if len(first) == needed:
                return Found(self._page_of(first), "window")
            steps = min(MANY, needed * window // max(len(first), 1))
            some = self._smallest(sources, int(steps / _CANDIDATE_COST))
            if some is not None:
                return Found(self._from(some), "candidates")
        return Found(self._page_of(self._walk(needed, sources)), "walk")

    def _walk(self, needed: int, sources: Sequence[Sql]) -> list[str]:
        """In the order of the metric: numbers, then NaN, then the runs that do not have it."""
        found: list[str] = []
        for nan in (False, True):
            found += self._ids(self._sql.walk(needed - len(found), nan=nan))
            if len(found) == needed:
                return found
        without = self._search.orderings[0].key
        rest = self._search.orderings[1:]
        some = self._smallest(sources, _UNORDERED)
        limit = needed - len(found)
        if some is None:
            return found + self._ids(self._sql.everything(limit, 0, orderings=rest, without=without))
        # The unsettled ones come to their places in ``_page_of``.
        return found + self._ids(self._sql.from_candidates(some, limit, 0, orderings=rest, without=without))

    def _page_of(self, first: list[str]) -> list[str]:
        """The page, of the first runs in order that are settled, from the beginning."""
        if not self._unsettled:
            return first[self._search.offset :]
        return self._from(self._sql.these(first))

    def _everything(self) -> list[str]:
        return self._ids(
            self._sql.everything(
                self._limit, self._search.offset, orderings=self._search.orderings, without=None
            )
        )

    def _from(self, candidates: Sql) -> list[str]:
        orderings: Sequence[Ordering] = self._search.orderings
        if self._unsettled:
            candidates = candidates + " UNION " + self._sql.unsettled()
        return self._ids(
            self._sql.from_candidates(
                candidates, self._limit, self._search.offset, orderings=orderings, without=None
            )
        )

    def _smallest(self, sources: Sequence[Sql], limit: int) -> Sql | None:
        """The source with the fewest runs, if it has fewer than ``limit``; none is counted beyond the best so far."""
        best = None
        for source in sources:
            count = self._database.rows(self._sql.count(source, limit))[0][0]
            if count < limit:
                best, limit = source, count
        return best

    def _ids(self, sql: Sql) -> list[str]:
        return [row[0] for row in self._database.rows(sql)]
