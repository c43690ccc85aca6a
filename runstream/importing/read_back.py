"""Points as readers of the server see them, for comparing them with their source and for exports."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import numpy as np
import pyarrow as pa

from runstream.query.client.http import Http, ServerError
from runstream.schemas.errors import RunstreamError
from runstream.schemas.names import Names
from runstream.schemas.record import PointColumns
from runstream.schemas.wire import API, ARROW, STALE_HEADER

_PATIENCE_S = 600.0
# The barrier waits for named runs; more than a thousand would wait for everything.
RUNS_AT_ONCE = 500


class ReadBackError(RunstreamError):
    """The server does not answer, or not with everything that it holds."""


def read_back(
    http: Http, run_ids: Sequence[str], keys: Sequence[str] | None = None
) -> Iterator[PointColumns]:
    """Every point of the runs, once what is still on its way has arrived. Raises ``ReadBackError``."""
    for first in range(0, len(run_ids), RUNS_AT_ONCE):
        for batch in batches(http, list(run_ids[first : first + RUNS_AT_ONCE]), keys):
            yield columns_of(batch)


def batches(http: Http, run_ids: list[str], keys: Sequence[str] | None = None) -> Iterator[Any]:
    """Arrow batches of run_id, key, step, timestamp, value, ordered by all of them."""
    body: dict[str, Any] = {"runs": run_ids, "compression": "lz4"}
    if keys is not None:
        body["keys"] = list(keys)
    deadline = time.monotonic() + _PATIENCE_S
    try:
        while True:
            with http.stream("POST", f"{API}/metrics/query", json=body, headers={"Accept": ARROW}) as answer:
                if STALE_HEADER not in answer.headers:
                    with pa.ipc.open_stream(_Body(answer.iter_bytes())) as reader:
                        yield from reader
                    return
            if time.monotonic() > deadline:
                raise ReadBackError("the server has not written the last points for ten minutes")
            time.sleep(0.2)
    except (ServerError, httpx.HTTPError, pa.ArrowException, OSError) as error:
        raise ReadBackError(f"the points cannot be read back: {error}") from error


class _Body:
    """An answer's pieces as a file for Arrow."""

    closed = False

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    def read(self, size: int = -1) -> bytes:
        parts, held = [self._left], len(self._left)
        while size < 0 or held < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            parts.append(piece)
            held += len(piece)
        joined = b"".join(parts)
        self._left = joined[size:] if size >= 0 else b""
        return joined[:size] if size >= 0 else joined

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


def columns_of(batch: Any) -> PointColumns:
    """A batch of the server's, or of any long table with these columns."""
    runs, run_codes = _dictionary(batch.column("run_id"))
    keys, key_codes = _dictionary(batch.column("key"))
    return PointColumns(
        runs,
        keys,
        run_codes,
        key_codes,
        batch.column("step").to_numpy(),
        batch.column("timestamp").to_numpy(),
        batch.column("value").to_numpy(),
        0,
    )


def _dictionary(column: Any) -> tuple[Names, Any]:
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    return Names.of(column.dictionary.to_pylist()), column.indices.to_numpy().astype(np.uint32)
