"""Numbers about series, asked of the query service. Blocks."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from runstream.ingest.control.database.reads import MetadataUnavailableError
from runstream.ingest.control.table.grammar import Statistic
from runstream.schemas.wire import INTERNAL, TOKEN_HEADER

# The query service takes bodies of 16 MiB.
_RUNS_TOGETHER: Final = 100_000

Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Series:
    """``url`` and ``token`` are the query service's. What is not there is an empty column where ``url`` is."""

    def __init__(self, url: str, token: str, *, timeout_s: float) -> None:
        self._address = f"{url}{INTERNAL}/run-statistics"
        self._headers = {TOKEN_HEADER: token, "Content-Type": "application/json"}
        self._timeout_s = timeout_s
        # Roles speak to each other without the proxies that the environment names.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def read(
        self, run_ids: Sequence[str], wanted: Sequence[Statistic]
    ) -> dict[Statistic, tuple[Numbers, Mask]]:
        """For each statistic the numbers of the runs, in their order, and which runs have one. Raises
        ``MetadataUnavailableError`` if the query service does not answer."""
        distinct = list(dict.fromkeys(wanted))
        if not distinct:
            return {}
        parts = [
            self._ask(run_ids[at : at + _RUNS_TOGETHER], distinct)
            for at in range(0, len(run_ids), _RUNS_TOGETHER)
        ]
        found = {}
        for place, statistic in enumerate(distinct):
            columns = [part.column(place) for part in parts]
            numbers = [column.fill_null(0.0).to_numpy(zero_copy_only=False) for column in columns]
            there = [column.is_valid().to_numpy(zero_copy_only=False) for column in columns]
            found[statistic] = (
                np.concatenate(numbers) if parts else np.zeros(0),
                np.concatenate(there) if parts else np.zeros(0, np.bool_),
            )
        return found

    def _ask(self, run_ids: Sequence[str], wanted: Sequence[Statistic]) -> Any:
        columns = [{"key": one.key, "what": one.what, "step": one.step} for one in wanted]
        body = orjson.dumps({"run_ids": list(run_ids), "columns": columns})
        request = urllib.request.Request(self._address, body, self._headers)
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                return pa.ipc.open_stream(answer.read()).read_next_batch()
        except (OSError, urllib.error.URLError, pa.ArrowInvalid, StopIteration) as error:
            raise MetadataUnavailableError(f"the query service does not answer: {error}") from error
