"""Points of many runs in one request, in columns: the decoding, checking and storing behind the ingest route.

Names are checked once each, a run's verdict is asked once, and values are not looked at: they go into queue records as
they came. What is refused (a run, a name, timestamps before 1970) is named in the answer; the rest is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson

from runstream.ingest.gateway.http.admission import Admission, Identity, RefusedError
from runstream.ingest.gateway.http.handling import Call, Outcome, Routes, json_outcome
from runstream.ingest.gateway.writes.arrow import read_arrow
from runstream.ingest.gateway.writes.batching import Batcher
from runstream.ingest.gateway.writes.columns import RunColumns
from runstream.ingest.gateway.writes.frames import read_frames
from runstream.schemas import frame
from runstream.schemas.errors import BadRecordError, MlflowError
from runstream.schemas.mlflow.names import KnownNames, check_length, check_name, is_run_id
from runstream.schemas.wire import API, ARROW

FRAMES = "application/vnd.runstream.frames"
_READERS: dict[str, Callable[[bytes, int], list[RunColumns]]] = {FRAMES: read_frames, ARROW: read_arrow}
# Of what is sent at once no more points share a record than this, so that records stay near their bound.
_POINTS_PER_RECORD = 10_000
# Bodies larger than this are decoded beside the loop.
_LARGE_BYTES = 128 << 10
# Packed frames may grow to this many times the largest body.
_GROWTH = 4
# Bodies are decoded in threads, no more of them at a time than this: each may grow.
_DECODING = 2
# Each run of a request has its verdict asked for.
_MOST_RUNS = 10_000
# The other requests get their turn after so many pieces.
_PIECES_A_TURN = 16


class Ingest:
    """Belongs to one event loop, like the batcher."""

    def __init__(
        self,
        batcher: Batcher,
        admission: Admission,
        *,
        max_body_bytes: int,
        creates: Callable[[], bool] = lambda: False,
    ) -> None:
        self._batcher = batcher
        self._admission = admission
        self._max_body_bytes = max_body_bytes
        self._creates = creates
        self._names = KnownNames()
        self._decoding = asyncio.Semaphore(_DECODING)

    def offers(self) -> dict[str, Any]:
        """What this route takes, for clients to find out."""
        return {
            "frames": frame.VERSION,
            "types": list(_READERS),
            "create": self._creates(),
            "max_bytes": self._max_body_bytes,
        }

    def add_to(self, routes: Routes, prefix: str) -> None:
        """Serve ``/api/1.0/runstream/ingest``."""
        for base in {"", prefix}:
            routes.add("GET", f"{base}{API}/ingest", self._say, name="ingest")
            routes.add("POST", f"{base}{API}/ingest", self._take, name="ingest")

    async def _say(self, _: Call) -> Outcome:
        return json_outcome(self.offers())

    async def _take(self, call: Call) -> Outcome:
        body, call.body = call.body, b""  # it may be long until all is durable
        return json_outcome(await self.store(body, call.headers.get("content-type"), call.identity))

    async def store(self, body: bytes, content_type: str | None, identity: Identity) -> dict[str, Any]:
        """Store what a body holds; returns when it is durable.

        The answer is ``{"stored": points, "refused": [{"run_id", "key"?, "code", "reason"}]}``. Raises
        ``MlflowError`` for a body that cannot be read, and what the batcher and the admission raise; then nothing is
        known to be stored, and the same may be sent again.
        """
        read = _READERS.get((content_type or "").partition(";")[0].strip().lower())
        if read is None:
            raise MlflowError(
                f"the type of the body is one of {', '.join(_READERS)}", "UNSUPPORTED_MEDIA_TYPE"
            )
        most = _GROWTH * self._max_body_bytes
        try:
            if len(body) > _LARGE_BYTES:
                async with self._decoding:
                    found = await asyncio.to_thread(read, body, most)
            else:
                found = read(body, most)
        except BadRecordError as error:
            raise MlflowError(str(error)) from error
        del body
        runs = {run.run_id for run in found}
        if len(runs) > _MOST_RUNS:
            raise MlflowError(f"points of {len(runs)} runs; a request may hold those of {_MOST_RUNS}")
        refused: list[dict[str, str]] = []
        allowed = await self._allowed(runs, identity, refused)
        waiting: set[asyncio.Future[None]] = set()
        stored = 0
        pieces = (piece for run in found if run.run_id in allowed for piece in run.cut(_POINTS_PER_RECORD))
        for number, piece in enumerate(pieces, 1):
            good = self._checked(piece, refused)
            if len(good):
                stored += len(good)
                waiting.add(self._batcher.add_nowait(good))
            if number % _PIECES_A_TURN == 0:
                await asyncio.sleep(0)
        found.clear()
        for durable in waiting:
            # Shared with other requests: never cancelled.
            await asyncio.shield(durable)
        return {"stored": stored, "refused": _each_once(refused)}

    async def _allowed(
        self, run_ids: set[str], identity: Identity, refused: list[dict[str, str]]
    ) -> set[str]:
        async def ask(run_id: str) -> str | None:
            if not is_run_id(run_id):
                refused.append(_no(run_id, "INVALID_PARAMETER_VALUE", f"Invalid run ID: '{run_id}'"))
                return None
            try:
                await self._admission.check(run_id, identity)
            except RefusedError as error:
                if error.answer.status == 401:
                    # Whoever asks is not known at all.
                    raise
                refused.append(_no(run_id, *_words(error)))
                return None
            return run_id

        answers = await asyncio.gather(*map(ask, sorted(run_ids)))
        return {run_id for run_id in answers if run_id is not None}

    def _checked(self, run: RunColumns, refused: list[dict[str, str]]) -> RunColumns:
        """The points that MLflow's rules allow."""
        kept = None
        if not self._names.all_valid(run.names):
            bad = []
            used = np.zeros(len(run.names), np.bool_)
            used[run.codes] = True
            for place in np.flatnonzero(used).tolist():
                if (reason := _wrong(name := run.names[place])) is not None:
                    bad.append(place)
                    refused.append(_no(run.run_id, "INVALID_PARAMETER_VALUE", reason, name))
            kept = ~np.isin(run.codes, bad)
        if len(run) and int(run.timestamps.min()) < 0:
            early = run.timestamps < 0
            for place in np.unique(run.codes[early]).tolist():
                reason = "Timestamps must be non-negative integers (Unix, in milliseconds)"
                refused.append(_no(run.run_id, "INVALID_PARAMETER_VALUE", reason, run.names[place]))
            kept = ~early if kept is None else kept & ~early
        return run if kept is None else run.only(kept)


def _wrong(name: str) -> str | None:
    """Why this cannot be a metric's name; ``None`` if it can."""
    if not name:
        return "Metric name cannot be empty"
    try:
        check_name(name, "name")
        check_length("name", name)
    except MlflowError as error:
        return error.message
    return None


def _each_once(refused: list[dict[str, str]]) -> list[dict[str, str]]:
    """What several pieces of a body say of one name is said once."""
    return list({(one["run_id"], one.get("key"), one["reason"]): one for one in refused}.values())


def _no(run_id: str, code: str, reason: str, key: str | None = None) -> dict[str, str]:
    refusal = {"run_id": run_id, "code": code, "reason": reason}
    return refusal if key is None else {**refusal, "key": key}


def _words(error: RefusedError) -> tuple[str, str]:
    """MLflow's code and message, from its answer."""
    try:
        value = orjson.loads(error.answer.body)
        return str(value["error_code"]), str(value["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.answer.status), error.answer.body[:200].decode(errors="replace")
