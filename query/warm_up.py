"""What a process does once, at its first read, done before anybody waits for it.

Most of it is pyarrow, which imports pandas, where that is installed, at the first array it is given: a second or two of
a loaded machine. The rest is ClickHouse's: connections, and what it compiles and caches.
"""

from __future__ import annotations

import logging

from runstream.query.api.bands import latest
from runstream.query.api.curve_cache import CurveCache
from runstream.query.api.curves import stream_curves
from runstream.query.http.formats import FORMATS
from runstream.query.mlflow.bodies import history_body
from runstream.query.mlflow.history import HistoryReader
from runstream.query.points.newest import NewestCache
from runstream.query.points.selection import Selection
from runstream.query.points.stream import POINTS, stream_points
from runstream.schemas.errors import RunstreamError
from runstream.schemas.ports.database import Database

_log = logging.getLogger(__name__)
# An id that no run has.
_NOBODY = "-"
_SETTINGS = {"max_execution_time": 10}


def warm_up(database: Database, reader: HistoryReader) -> None:
    """Read nothing in every way that callers do. Blocks; what fails is left to the first caller."""
    try:
        _read_nothing(database, reader)
    except (RunstreamError, OSError) as error:
        _log.warning("the first reads will be slow", extra={"error": str(error)})


def _read_nothing(database: Database, reader: HistoryReader) -> None:
    page = reader.history(_NOBODY, _NOBODY, 1)
    history_body(_NOBODY, page.series, None)
    reader.history_bulk([_NOBODY], _NOBODY, 1)
    reader.history_bulk_interval([_NOBODY], _NOBODY, 1)
    one = Selection([_NOBODY], [_NOBODY])
    batches = list(stream_points(database, one, _SETTINGS))
    batches += stream_curves(database, one, _SETTINGS, 100, "minmax", CurveCache(database))
    batches += latest(database, one, _SETTINGS, NewestCache(database))
    for name in ("arrow", "json"):
        b"".join(FORMATS[name].write(POINTS, batches, "lz4"))
