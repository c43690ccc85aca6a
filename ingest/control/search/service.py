"""Searches answered from MLflow's own tables, in one process with one connection. Blocks."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Final

import orjson

from runstream.ingest.control.answers import Body, render
from runstream.ingest.control.database.sql import packed
from runstream.ingest.control.errors import PassOnError
from runstream.ingest.control.run_reads import run_body, runs_statement
from runstream.ingest.control.search import experiments, indexes
from runstream.ingest.control.search.connections import Connection
from runstream.ingest.control.search.finder import Finder
from runstream.ingest.control.search.grammar import NotPlainError
from runstream.ingest.control.search.requests import RunSearch, experiment_search, run_search
from runstream.ingest.control.search.sql import Sql
from runstream.schemas.mlflow.page_tokens import create_page_token

# Runs whose rows are fetched together.
_TOGETHER: Final = 100
_INDEXES_LOOKED_AT_EVERY_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The body of an answer, and the state of the database that it shows. ``body`` is ``None`` if nothing has changed
    since the state that the caller named."""

    body: bytes | None
    snapshot: str


@dataclass(frozen=True, slots=True)
class _Order:
    """The first runs of a search without its page, in a state of the database; ``whole``: there are no more."""

    search: RunSearch
    snapshot: str
    run_ids: list[str]
    whole: bool

    def reaches(self, place: int) -> bool:
        return self.whole or place <= len(self.run_ids)


class Searcher:
    """Answers searches. ``max_bytes`` bounds what is stored of the runs of an answer. Raises ``NotPlainError`` for
    what MLflow has to answer, and ``MetadataUnavailableError``."""

    def __init__(self, connection: Connection, *, max_bytes: int) -> None:
        self._connection = connection
        self._max_bytes = max_bytes
        # Whether to use what is beside MLflow's tables; None: if it is there.
        self.indexed: bool | None = None
        self._there = False
        self._look_again = 0.0
        self._order: _Order | None = None

    def answer(self, route: str, body: bytes, known: str | None) -> Answer:
        """The answer to ``body`` on ``route`` (``runs/search``, ``experiments/search``); ``known`` is the snapshot of
        an answer that the caller still has."""
        if route == "runs/search":
            runs = run_search(body)
        elif route == "experiments/search":
            found = experiment_search(body)
        else:
            raise NotPlainError
        # Named before it is read: a change in between makes the next reader read again.
        snapshot = self._connection.snapshot()
        if snapshot == known:
            return Answer(None, snapshot)
        with self._connection.reading():
            if route == "runs/search":
                return Answer(self._runs(runs, snapshot), snapshot)
            return Answer(experiments.body(self._connection, found), snapshot)

    def _runs(self, search: RunSearch, snapshot: str) -> bytes:
        run_ids = self._page(search, snapshot)
        token = None
        if len(run_ids) > search.max_results:
            token = create_page_token(search.offset + search.max_results)
            del run_ids[search.max_results :]
        if not run_ids:
            return b"{}"
        runs: list[Body] = []
        size = 0
        for first in range(0, len(run_ids), _TOGETHER):
            some = run_ids[first : first + _TOGETHER]
            [(text,)] = self._connection.rows(
                Sql(runs_statement(self._connection.dialect), (packed([[run_id] for run_id in some]),))
            )
            size += len(text)
            if size > self._max_bytes:
                raise NotPlainError
            rows = {row[0]: row for row in orjson.loads(text)}
            try:
                runs += [_without_model_inputs(run_body(rows[run_id])["run"]) for run_id in some]
            except PassOnError as error:
                raise NotPlainError from error
        return render({"runs": runs} | ({"next_page_token": token} if token else {}))

    def _page(self, search: RunSearch, snapshot: str) -> list[str]:
        """The run ids of a page, and one more if there are more.

        Who asks for a later page asks for the next ones: the order is then found further than was asked, and kept as
        long as nothing changes, so that many pages cost little more than the last of them.
        """
        last = search.offset + search.max_results + 1
        all_pages = replace(search, offset=0, max_results=0)
        kept = self._order
        if kept is None or kept.search != all_pages or kept.snapshot != snapshot or not kept.reaches(last):
            if not search.offset:
                return self._find(search)
            wanted = 2 * last
            run_ids = self._find(replace(search, offset=0, max_results=wanted - 1))
            kept = self._order = _Order(all_pages, snapshot, run_ids, len(run_ids) < wanted)
        return kept.run_ids[search.offset : last]

    def _find(self, search: RunSearch) -> list[str]:
        return Finder(self._connection, search, indexed=self.has_indexes()).find().run_ids

    def has_indexes(self) -> bool:
        """Whether what is beside MLflow's tables is there and may be used."""
        if self.indexed is None and self._connection.dialect == "sqlite":
            # In the transaction of the search: a migration may take the triggers away.
            return indexes.are_there(self._connection)
        now = time.monotonic()
        if self.indexed is None and now >= self._look_again:
            self._there = indexes.are_there(self._connection)
            self._look_again = now + _INDEXES_LOOKED_AT_EVERY_S
        return self._there if self.indexed is None else self.indexed


def _without_model_inputs(run: Body) -> Body:
    """As searches show a run: only ``runs/get`` tells which models went in."""
    run["inputs"].pop("model_inputs", None)
    return run
