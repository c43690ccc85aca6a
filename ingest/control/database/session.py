"""One connection that writes, inside transactions, for the one thread that owns it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from runstream.ingest.control.database.reads import Dialect, Row
from runstream.schemas.errors import RunstreamError


class ConflictError(RunstreamError):
    """Another writer was in the way (a unique row, a deadlock): the transaction was undone, and may be repeated."""

    retryable = True


class RefusedByDatabaseError(RunstreamError):
    """The database does not take this data."""


class CommitUnknownError(RunstreamError):
    """The connection broke while a transaction was being committed: nobody knows whether it was."""

    retryable = True


class Session(Protocol):
    """Blocking. Statements are written as for ``ReadPool``.

    Raises ``MetadataUnavailableError`` when the database is away, locked or out of space, ``ConflictError`` and
    ``RefusedByDatabaseError``; after each of them ``rollback`` (or ``undo``) comes next.
    """

    @property
    def dialect(self) -> Dialect:
        """The database behind."""
        ...

    def begin(self) -> None:
        """Begin a transaction that will write. Connects if there is no connection."""
        ...

    def commit(self) -> None:
        """Returns when it is durable. Raises ``CommitUnknownError`` too."""
        ...

    def rollback(self) -> None:
        """Undo everything since ``begin``; never raises."""
        ...

    def mark(self) -> None:
        """A savepoint, to which ``undo`` goes back."""
        ...

    def undo(self) -> None:
        """Undo everything since ``mark``."""
        ...

    def gather(self, columns: str, rest: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """``SELECT columns FROM rest``, without floats among the columns."""
        ...

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of a statement."""
        ...

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """A statement without a result."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...
