"""A process that answers searches, one after another, over its standard input and output.

Looking through a database and printing thousands of runs keeps a processor busy; the gateway has points to
take in. Started and ended by ``workers``: it ends when its input ends, so it never outlives its gateway.

A request is one line of JSON (``route``, ``known``, ``size``) and ``size`` bytes of body; an answer one line of JSON
(``outcome``, ``snapshot``, ``size``) and so many bytes.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, BinaryIO, Final

import orjson

from runstream.ingest.control.database.reads import MetadataUnavailableError
from runstream.ingest.control.search.connections import Address, connect
from runstream.ingest.control.search.grammar import NotPlainError
from runstream.ingest.control.search.service import Answer, Searcher

DATABASE_VARIABLE: Final = "RUNSTREAM_SEARCH_DATABASE"
FOUND: Final = "found"
UNCHANGED: Final = "unchanged"
NOT_PLAIN: Final = "not-plain"
AWAY: Final = "away"


def main() -> None:
    """Serve until the input ends."""
    requests, answers = _channels()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's goes to the gateway as well, which drains
    timeout_s, max_bytes = float(sys.argv[1]), int(sys.argv[2])
    dialect, name = orjson.loads(os.environ[DATABASE_VARIABLE])
    connection = connect(Address(dialect, name), timeout_s=timeout_s)
    searcher = Searcher(connection, max_bytes=max_bytes)
    while line := requests.readline():
        wanted = orjson.loads(line)
        body = requests.read(wanted["size"])
        outcome, answer = _outcome(searcher, wanted, body)
        found = (answer.body if answer else None) or b""
        head = {"outcome": outcome, "snapshot": answer.snapshot if answer else "", "size": len(found)}
        answers.write(orjson.dumps(head) + b"\n")
        answers.write(found)
        answers.flush()
    connection.close()


def _outcome(searcher: Searcher, wanted: dict[str, Any], body: bytes) -> tuple[str, Answer | None]:
    try:
        answer = searcher.answer(wanted["route"], body, wanted["known"])
    except NotPlainError:
        return NOT_PLAIN, None
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
