"""Reads of MLflow's tables from the event loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from runstream.schemas.errors import RunstreamError

Dialect = Literal["sqlite", "postgresql"]
Row = tuple[Any, ...]


class MetadataUnavailableError(RunstreamError):
    """The metadata database does not answer, or not in time; trying again may help.

    ``nothing_done`` is not so where a commit was sent and not confirmed, and could not be repeated.
    """

    retryable = True
    nothing_done = True


class ReadPool(Protocol):
    """A bounded number of connections that only read. Belongs to one event loop.

    Every call of ``rows`` sees one committed state of the database, everything that was durable before the call among
    it. Statements have ``?`` for each parameter, on both databases, and no other question mark, percent sign or
    value in their text: values are parameters. The SQL itself is the database's own; ``dialect`` says which.
    """

    @property
    def dialect(self) -> Dialect:
        """The database behind."""
        ...

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of one statement, off the event loop.

        On SQLite every row costs a hand-over of Python's lock, which a busy loop gives back late: where many small
        rows are wanted, let SQLite make one of them (``json_group_array``). Raises ``MetadataUnavailableError``.
        """
        ...

    async def close(self) -> None:
        """Close every connection; reads under way end first."""
        ...
