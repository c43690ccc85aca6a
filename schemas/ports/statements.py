"""Statements of users, as whoever runs them sees them: apart from every other read, and bounded."""

from __future__ import annotations

from typing import Protocol

import msgspec

Scalar = str | int | float | bool | None


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """A SELECT over the view ``metrics``, and how its result is to be written.

    ``format`` is a name of ``query.http.formats.FORMATS``, ``compression`` that of Arrow's and Parquet's buffers.
    """

    query: str
    parameters: dict[str, Scalar | list[Scalar]] = {}
    format: str = "arrow"
    compression: str = "lz4"


class Statements(Protocol):
    """Runs statements with a bound on how many, how long and with how much memory. Belongs to one event loop."""

    async def answer(self, statement: Statement) -> bytes:
        """The result, written. Sees every point that was in the table before the call. A caller that is cancelled ends
        its statement.

        Raises ``MlflowError`` for a statement that is not allowed, wrong or asks too much, ``DatabaseError`` for what
        ClickHouse fails at, and a ``RunstreamError`` that is ``retryable`` when too many wait.
        """
        ...

    async def close(self) -> None:
        """End what is under way, and give everything back."""
        ...
