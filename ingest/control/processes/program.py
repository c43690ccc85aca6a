"""A process that answers searches, one after another, over its standard input and output.

Looking through a database and printing thousands of runs keeps a processor busy; the gateway has points to
take in. Started and ended by ``workers``: it ends when its input ends, so it never outlives its gateway.

A request is one line of JSON (``route``, ``known``, ``size``) and ``size`` bytes of body; an answer one line of JSON
(``outcome``, ``snapshot``, ``size``) and so many bytes.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import orjson

from runstream.ingest.control.database.reads import MetadataUnavailableError
from runstream.ingest.control.search.connections import Address, Connection, connect
from runstream.ingest.control.search.grammar import NotPlainError
from runstream.ingest.control.search.service import Answer, Searcher
from runstream.schemas.errors import MlflowError

if TYPE_CHECKING:
    from runstream.ingest.control.table.series import Series

DATABASE_VARIABLE: Final = "RUNSTREAM_SEARCH_DATABASE"
# The query service's address and token.
QUERY_VARIABLE: Final = "RUNSTREAM_SEARCH_QUERY"
# Tables of runs, in two formats: see ``ingest.control.table``.
TABLE_JSON: Final = "table.json"
TABLE_ARROW: Final = "table.arrow"
FOUND: Final = "found"
UNCHANGED: Final = "unchanged"
NOT_PLAIN: Final = "not-plain"
AWAY: Final = "away"
REFUSED: Final = "refused"


def main() -> None:
    """Serve until the input ends."""
    requests, answers = _channels()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's goes to the gateway as well, which drains
    timeout_s, max_bytes = float(sys.argv[1]), int(sys.argv[2])
    dialect, name = orjson.loads(os.environ[DATABASE_VARIABLE])
    connection = connect(Address(dialect, name), timeout_s=timeout_s)
    searcher = Searcher(connection, max_bytes=max_bytes)
    tables = _Tables(connection, searcher, timeout_s)
    while line := requests.readline():
        wanted = orjson.loads(line)
        body = requests.read(wanted["size"])
        outcome, answer = _outcome(searcher, tables, wanted, body)
        found = (answer.body if answer else None) or b""
        head = {"outcome": outcome, "snapshot": answer.snapshot if answer else "", "size": len(found)}
        answers.write(orjson.dumps(head) + b"\n")
        answers.write(found)
        answers.flush()
    connection.close()


class _Tables:
    """Tables of runs; what they need is loaded when the first is asked for."""

    def __init__(self, connection: Connection, searcher: Searcher, timeout_s: float) -> None:
        self._connection = connection
        self._searcher = searcher
        self._timeout_s = timeout_s
        self._series: Series | None = None

    def answer(self, body: bytes, *, arrow: bool) -> Answer:
        """One table."""
        from runstream.ingest.control.table.series import Series
        from runstream.ingest.control.table.service import table

        if self._series is None:
            self._series = Series(*orjson.loads(os.environ[QUERY_VARIABLE]), timeout_s=self._timeout_s)
        # Names the time from which this is counted; a table is no state of this database alone, so it has no name.
        self._connection.snapshot()
        gc.disable()  # which would look at a million values again and again
        try:
            with self._connection.reading():
                indexed = self._searcher.has_indexes()
                found = table(self._connection, self._series, body, indexed=indexed, arrow=arrow)
        finally:
            gc.enable()
        return Answer(found, "")


def _outcome(
    searcher: Searcher, tables: _Tables, wanted: dict[str, Any], body: bytes
) -> tuple[str, Answer | None]:
    route = wanted["route"]
    try:
        if route in (TABLE_JSON, TABLE_ARROW):
            return FOUND, tables.answer(body, arrow=route == TABLE_ARROW)
        answer = searcher.answer(route, body, wanted["known"])
    except NotPlainError:
        return NOT_PLAIN, None
    except MlflowError as error:
        refusal = {"message": error.message, "code": error.code}
        return REFUSED, Answer(orjson.dumps(refusal), "")
    except MetadataUnavailableError as error:
        print(f"a search was given up: {error}", file=sys.stderr)
        return AWAY, None
    return (FOUND if answer.body is not None else UNCHANGED), answer


def _channels() -> tuple[BinaryIO, BinaryIO]:
    # What is printed by accident must not stand between answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sys.stdin.buffer, answers


if __name__ == "__main__":
    main()
