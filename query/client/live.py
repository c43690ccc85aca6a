"""Following runs: new points as they land."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import httpx

from runstream.query.client.http import Http, ServerError, error_of
from runstream.schemas.backoff import Backoff
from runstream.schemas.wire import API

_REMEMBERED = 200_000
SILENCE_S = 35.0
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
# After a gap points are asked for by their timestamps, from this long before the newest one that was seen.
_OVERLAP_MS = 60_000

Fetch = Callable[[dict[str, Any]], Any]


class Point(NamedTuple):
    """One point of a run's metric; ``timestamp`` is Unix milliseconds."""

    run_id: str
    key: str
    step: int
    timestamp: int
    value: float


class Follower:
    """The state of one following, without its transport: what was seen, and where to go on."""

    def __init__(self, runs: Sequence[str], keys: Sequence[str] | None) -> None:
        self.last_id: str | None = None
        self.gap_since_ms: int | None = None
        self._runs = list(runs)
        self._keys = keys
        self._seen: OrderedDict[Point, None] = OrderedDict()
        self._began_ms = _now_ms()
        self._newest_ms: int | None = None
        self._event: dict[str, str] = {}

    def request(self) -> dict[str, Any]:
        """Arguments of the POST that goes on."""
        body: dict[str, Any] = {"runs": self._runs}
        if self._keys is not None:
            body["keys"] = list(self._keys)
        headers = {"Accept": "text/event-stream"}
        if self.last_id is not None:
            headers["Last-Event-ID"] = self.last_id
        return {"url": f"{API}/live", "json": body, "headers": headers}

    def gap_request(self) -> dict[str, Any]:
        """The body of the query for what the gap holds; the gap counts as filled from then on."""
        body: dict[str, Any] = {"runs": self._runs, "time": [self.gap_since_ms, None]}
        self.gap_since_ms = None
        return body | ({"keys": list(self._keys)} if self._keys is not None else {})

    def line(self, line: str) -> list[Point]:
        """Take one line of the stream; the new points that it completes. Raises ``ServerError`` when
        dropped."""
        if line:
            name, _, value = line.partition(":")
            if name in ("id", "event", "data"):
                self._event[name] = value.removeprefix(" ")
            return []
        event, self._event = self._event, {}
        self.last_id = event.get("id", self.last_id)
        kind = event.get("event")
        if kind == "gap":
            known = self._began_ms if self._newest_ms is None else self._newest_ms
            self.gap_since_ms = known - _OVERLAP_MS
        elif kind == "dropped":
            raise ServerError(json.loads(event["data"])["reason"])
        elif kind == "points":
            columns = json.loads(event["data"])
            rows = zip(columns["key"], columns["step"], columns["timestamp"], columns["value"], strict=True)
            return self.new(
                Point(columns["run_id"], key, step, timestamp, float(value))
                for key, step, timestamp, value in rows
            )
        return []

    def new(self, points: Iterator[Point]) -> list[Point]:
        """Those that were not seen yet, and from now on are."""
        found = []
        for point in points:
            # NaN is not equal to itself; its text is.
            known = point if point.value == point.value else point._replace(value="NaN")  # type: ignore[arg-type]
            if known in self._seen:
                continue
            self._seen[known] = None
            # The clocks of trainings are their own; but nothing is hidden by one that runs ahead.
            dated = min(point.timestamp, _now_ms())
            self._newest_ms = dated if self._newest_ms is None else max(self._newest_ms, dated)
            found.append(point)
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return found


def _now_ms() -> int:
    return int(time.time() * 1000)


def rows_of(table: Any) -> Iterator[Point]:
    """The points of an Arrow table."""
    for batch in table.to_batches():
        yield from (
            Point(*row) for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        )


def follow(http: Http, runs: Sequence[str], keys: Sequence[str] | None, fetch: Fetch) -> Iterator[Point]:
    """New points without end; a broken connection is taken up where it was. Raises ``ServerError`` if
    refused."""
    follower = Follower(runs, keys)
    backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    while True:
        try:
            with http.client.stream(
                "POST", timeout=httpx.Timeout(SILENCE_S), **follower.request()
            ) as response:
                if response.status_code != 200:
                    response.read()
                    check(response)
                for line in response.iter_lines() if response.status_code == 200 else ():
                    backoff.reset()
                    yield from follower.line(line)
                    if follower.gap_since_ms is not None:
                        yield from follower.new(rows_of(fetch(follower.gap_request())))
        except httpx.TransportError:
            pass
        time.sleep(backoff.next_s())


def check(response: httpx.Response) -> None:
    """Raise ``ServerError`` for a refusal that trying again will not change."""
    if response.status_code < 500 and response.status_code != 429:
        raise error_of(response)
